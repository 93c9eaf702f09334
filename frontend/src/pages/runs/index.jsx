import { place } from "../../router.js";
import { List } from "./List.jsx";
import { Overlay } from "./Overlay.jsx";
import { Run } from "./Run.jsx";

export default function Page() {
  const [, , what] = place.value.path.split("/");
  if (what === "compare") return <Overlay />;
  return what ? <Run key={what} id={what} /> : <List />;
}
