// Requests to the server that this page came from.

/** The answer as an object. Throws an Error with the server's words. Lists become repeated parameters. */
export async function get(path, parameters = {}, signal = undefined) {
  const answer = await fetch(`${path}?${query(parameters)}`, { signal, headers: { Accept: "application/json" } });
  return read(answer);
}

/** Sends a change. */
export async function post(path, parameters, body) {
  const answer = await fetch(`${path}?${query(parameters)}`, {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  });
  return read(answer);
}

export function query(parameters) {
  const made = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && (one !== "" || Array.isArray(value))) made.append(name, one);
    }
  }
  return made;
}

/** Where a picture of a run is. */
export function picture(run, sha) {
  return `/media?${query({ run, sha })}`;
}

async function read(answer) {
  let found;
  try {
    found = await answer.json();
  } catch {
    throw new Error(`the server answered ${answer.status} ${answer.statusText}`);
  }
  if (!answer.ok) throw new Error(found.error || JSON.stringify(found.detail || found));
  return found;
}

/**
 * Calls back on every change of a run (or, without a name, of any), and with null when the server is lost. Returns a
 * function that ends it. A page that is hidden does not listen: a browser allows six connections to one server, and
 * every open page would hold one of them.
 */
export function watch(run, changed) {
  let source = null;
  function listen() {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (source === null) {
      source = new EventSource(`/api/live?${query({ run })}`);
      source.addEventListener("change", (event) => changed(JSON.parse(event.data)));
      source.addEventListener("error", () => changed(null));
    }
  }
  document.addEventListener("visibilitychange", listen);
  listen();
  return () => {
    document.removeEventListener("visibilitychange", listen);
    source?.close();
  };
}

/**
 * Work that follows a run: never twice at once, and what was asked for meanwhile is done once, afterwards. Between two turns
 * it rests for as long as the last one took, so that a large run that writes often leaves the page responsive.
 */
export function following(work, failed) {
  let busy = false;
  let again = null;
  return function next(...given) {
    if (busy) {
      again = given;
      return Promise.resolve();
    }
    busy = true;
    const began = performance.now();
    const done = work(...given).catch(failed);
    done.then(() => setTimeout(() => {
      busy = false;
      const late = again;
      again = null;
      if (late) next(...late);
    }, performance.now() - began));
    return done;
  };
}
