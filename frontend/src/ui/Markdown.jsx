// Text of a model as formatted text. It is hostile: marked makes HTML of it, DOMPurify then takes out what could run, style or fetch, and
// the page's content security policy stops whatever both have missed.
import DOMPurify from "dompurify";
import { Marked } from "marked";
import { useMemo } from "preact/hooks";

const ALLOWED = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "strong", "sub", "sup",
    "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["href", "title", "start", "align"],
  ALLOWED_URI_REGEXP: /^https?:/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
};

// HTML in a text is shown as it is written: what a model says in angle brackets is something to read.
const marked = new Marked({ gfm: true, breaks: true, async: false, renderer: { html: ({ text }) => escape(text) } });

const escape = (text) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

let purifier;

function purify(html) {
  if (!purifier) {
    purifier = DOMPurify(window);
    // A link of a model leads to another site: by a click of the reader's only, and without saying where it came from.
    purifier.addHook("afterSanitizeAttributes", (node) => {
      if (node.tagName === "A") {
        node.setAttribute("rel", "noopener noreferrer nofollow");
        node.setAttribute("target", "_blank");
      }
    });
  }
  return purifier.sanitize(html, ALLOWED);
}

export function Markdown({ text }) {
  const html = useMemo(() => purify(marked.parse(text)), [text]);
  return <div class="markdown" dangerouslySetInnerHTML={{ __html: html }} />;
}
