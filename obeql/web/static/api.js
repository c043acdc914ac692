// Requests to the server of this page; what goes wrong there becomes an ApiError with the server's own words.

export class ApiError extends Error {
  /** @param {Record<string, any>} facts @param {number} status */
  constructor(facts, status) {
    super(facts.message || facts.error || "the server gave no reason");
    this.facts = facts;
    this.status = status;
  }
}

/** @param {Response} response */
async function checked(response) {
  if (response.ok) return response;
  let facts = { error: `${response.status} ${response.statusText}` };
  try {
    facts = await response.json();
  } catch {
    // no JSON: the status says it all
  }
  throw new ApiError(facts, response.status);
}

/** @param {string} path @param {RequestInit} [options] */
async function ask(path, options) {
  try {
    return await checked(await fetch(path, options));
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw new ApiError({ error: "The server does not answer. Is `obeql ui` still running?", family: "Offline" }, 0);
  }
}

/** @param {string} path @param {Record<string, any>} [query] */
export async function get(path, query = {}) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== null && value !== undefined) words.set(name, String(value));
  return (await ask(words.size ? `${path}?${words}` : path)).json();
}

/** @param {string} path @param {Record<string, any>} [body] */
export async function post(path, body = {}) {
  return (await send(path, body)).json();
}

/** @param {string} path @param {Record<string, any>} body @returns {Promise<Response>} */
export function send(path, body) {
  return ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
}

/** @param {string} path @returns {Promise<ArrayBuffer|null>} null where there is nothing yet */
export async function bytes(path) {
  const response = await ask(path);
  return response.status === 204 ? null : response.arrayBuffer();
}

/** @param {File} file */
export async function upload(file) {
  const form = new FormData();
  form.append("file", file);
  return (await ask("/api/images", { method: "POST", body: form })).json();
}

/** Hand a response to the browser as a file. @param {Response} response @param {string} name */
export async function save(response, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
