// Rollouts: the list that filters leave, and from it one rollout, its group, its sample through the steps, or the same
// samples before and after. Everything that is chosen is in the address.

import { showList } from "../list.js";
import { showOne } from "../one.js";
import { showGroup, showPairs, showSample } from "../siblings.js";

const PAGES = { one: showOne, group: showGroup, sample: showSample, pairs: showPairs };

export function show(root, state) {
  return (Object.hasOwn(PAGES, state.show || "") ? PAGES[state.show] : showList)(root, state);
}
