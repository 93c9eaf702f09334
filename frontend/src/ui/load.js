import { useCallback, useEffect, useState } from "preact/hooks";
import { getJson } from "../api.js";

/** {value, error, loading, reload} of a GET; asked again when path or params change, the old value stays until the new one is here. */
export function useJson(path, params = {}) {
  const [state, setState] = useState({ value: null, error: null, loading: true });
  const [round, setRound] = useState(0);
  const key = JSON.stringify([path, params]);
  useEffect(() => {
    if (!path) return setState({ value: null, error: null, loading: false });
    const stop = new AbortController();
    setState((old) => ({ ...old, loading: true }));
    getJson(path, params, { signal: stop.signal }).then(
      (value) => setState({ value, error: null, loading: false }),
      (error) => stop.signal.aborted || setState((old) => ({ ...old, error, loading: false })),
    );
    return () => stop.abort();
  }, [key, round]);
  const reload = useCallback(() => setRound((n) => n + 1), []);
  return { ...state, reload };
}
