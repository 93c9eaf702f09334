import { useState } from "preact/hooks";

const NEXT = { auto: "light", light: "dark", dark: "auto" };

applyTheme(read());

/** Follows the system unless told otherwise; the choice stays in this browser. */
export function ThemeButton() {
  const [theme, setTheme] = useState(read());
  const turn = () => {
    const next = NEXT[theme];
    try {
      localStorage.setItem("theme", next);
    } catch {
      // private windows may refuse: the choice then lasts as long as the page
    }
    applyTheme(next);
    setTheme(next);
  };
  return <button type="button" class="quiet theme" onClick={turn} aria-label={`Colours: ${theme}`} title="Colours: as the system, light, dark">{theme}</button>;
}

function read() {
  try {
    return localStorage.getItem("theme") ?? "auto";
  } catch {
    return "auto";
  }
}

function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  dispatchEvent(new Event("themechange")); // charts read their colours again
}
