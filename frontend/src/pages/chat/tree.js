// A conversation as a tree: every edit and every new try of an answer is a sibling, and `chosen` says which is in view.
// Trees are never changed; each function gives a new one.

export const emptyTree = () => ({ nodes: {}, chosen: {}, next: 1 });

const ROOT = "";

export function addNode(tree, parent, fields) {
  const id = String(tree.next);
  const node = { id, parent: parent ?? ROOT, content: "", ...fields };
  return [{ nodes: { ...tree.nodes, [id]: node }, chosen: { ...tree.chosen, [node.parent]: id }, next: tree.next + 1 }, id];
}

export function changeNode(tree, id, fields) {
  if (!tree.nodes[id]) return tree;
  return { ...tree, nodes: { ...tree.nodes, [id]: { ...tree.nodes[id], ...fields } } };
}

/** The messages in view, from the first one on. */
export function branch(tree) {
  const found = [];
  for (let id = tree.chosen[ROOT]; id !== undefined && tree.nodes[id]; id = tree.chosen[id]) found.push(tree.nodes[id]);
  return found;
}

/** The messages up to a node and with it. */
export function pathTo(tree, id) {
  const found = [];
  for (let node = tree.nodes[id]; node; node = tree.nodes[node.parent]) found.unshift(node);
  return found;
}

/** A node and its siblings, oldest first. */
export function siblings(tree, id) {
  const { parent } = tree.nodes[id];
  return Object.values(tree.nodes).filter((node) => node.parent === parent).sort((a, b) => Number(a.id) - Number(b.id));
}

/** The tree with the sibling `step` places on in view. */
export function turn(tree, id, step) {
  const all = siblings(tree, id);
  const place = all.findIndex((node) => node.id === id) + step;
  return place < 0 || place >= all.length ? tree : { ...tree, chosen: { ...tree.chosen, [all[place].parent]: all[place].id } };
}

/** Messages as they are sent and exported; an answer that failed before it said anything is left out. */
export function toMessages(nodes, system) {
  const said = nodes.filter((node) => node.role === "user" || node.content || !node.error).map(({ role, content }) => ({ role, content }));
  return system ? [{ role: "system", content: system }, ...said] : said;
}

/** Trees as they are kept in the browser: without the details of tokens, which are many times the text. */
export function withoutTokens(tree) {
  const nodes = Object.fromEntries(Object.entries(tree.nodes).map(([id, { tokens, busy, ...kept }]) => [id, kept]));
  return { ...tree, nodes };
}
