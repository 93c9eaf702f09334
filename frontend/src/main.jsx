// The shell: navigation, theme, and the page that the path names, loaded when it is first looked at.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { follow, place } from "./router.js";
import { Problem, Spinner } from "./ui/parts.jsx";
import { ThemeButton } from "./ui/theme.jsx";
import "./style.css";
import "./pages/arena/arena.css";
import "./pages/chat/chat.css";
import "./pages/corpus/corpus.css";
import "./pages/runs/runs.css";
import "./pages/tokenizer/tokenizer.css";

const PAGES = {
  runs: { title: "Runs", load: () => import("./pages/runs/index.jsx") },
  corpus: { title: "Corpus", load: () => import("./pages/corpus/index.jsx") },
  tokenizer: { title: "Tokenizer", load: () => import("./pages/tokenizer/index.jsx") },
  chat: { title: "Chat", load: () => import("./pages/chat/index.jsx") },
  arena: { title: "Arena", load: () => import("./pages/arena/index.jsx") },
};

function App() {
  const name = place.value.path.split("/")[1] || "runs";
  const page = PAGES[name];
  return (
    <div class="shell" onClick={follow}>
      <a class="skip" href="#main">Skip to the page</a>
      <header class="bar">
        <a class="mark" href="/">
          <img src="/static/icon.svg" alt="" width="20" height="20" /> bloomery
        </a>
        <nav aria-label="Pages">
          {Object.entries(PAGES).map(([key, { title }]) => (
            <a key={key} href={`/${key}`} aria-current={key === name ? "page" : undefined}>{title}</a>
          ))}
        </nav>
        <ThemeButton />
      </header>
      <main id="main" tabindex="-1">{page ? <Page key={name} {...page} /> : <Problem error={new Error("There is no such page.")} />}</main>
    </div>
  );
}

function Page({ title, load }) {
  const [loaded, setLoaded] = useState(null);
  useEffect(() => {
    document.title = `${title} · bloomery`;
    load().then(
      (module) => setLoaded({ Content: module.default }),
      (error) => setLoaded({ error }),
    );
  }, []);
  if (loaded?.error) return <Problem error={loaded.error} />;
  return loaded ? <loaded.Content /> : <><h1>{title}</h1><Spinner /></>;
}

const root = document.getElementById("app");
root.replaceChildren(); // the frame that index.html paints while this script is on its way
render(<App />, root);
