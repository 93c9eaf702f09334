// One EventSource for all that a page shows; opened anew when that changes, and again by itself when the connection was lost.
import { useEffect, useRef, useState } from "preact/hooks";
import { listenTo } from "../../api.js";

/** `wanted`: query parameters of /api/runs/live, null for none. Returns "live", "lost" or "". */
export function useLive(wanted, handlers) {
  const [state, setState] = useState("");
  const current = useRef(handlers);
  current.current = handlers;
  const key = JSON.stringify(wanted);
  useEffect(() => {
    if (!wanted) return undefined;
    const pass = Object.fromEntries(["runs", "gone", "run", "points"].map((name) => [name, (data, id) => current.current[name]?.(data, id)]));
    return listenTo("/api/runs/live", pass, { params: wanted, onOpen: () => setState("live"), onLost: () => setState("lost") });
  }, [key]);
  return state;
}
