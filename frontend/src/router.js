// Where we are: the path picks the page, the query is its state, so that an address can be shared.
import { signal } from "@preact/signals";

export const place = signal(here());

function here() {
  return { path: location.pathname, query: new URLSearchParams(location.search) };
}

addEventListener("popstate", () => (place.value = here()));

/** Goes to an address of this application. */
export function go(address, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", address);
  place.value = here();
}

/** Sets parameters of the query and stays on the page; null removes one. Replaces by default: a slider must not fill the history. */
export function setQuery(values, { replace = true } = {}) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(values)) {
    query.delete(name);
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== null && item !== undefined && item !== "") query.append(name, item);
    }
  }
  const text = query.toString();
  go(location.pathname + (text ? `?${text}` : ""), { replace });
}

/** For <a href>: a plain click stays in the application, everything else (new tab, middle button) is the browser's. */
export function follow(event) {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = event.target.closest?.("a[href^='/']");
  if (!link || link.target || link.hasAttribute("download")) return;
  event.preventDefault();
  go(link.getAttribute("href"));
  scrollTo(0, 0);
}
