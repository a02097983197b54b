// What the tab keeps over a reload; until then only, where the browser keeps nothing for this site.

function inMemory() {
  const kept = new Map();
  return {
    getItem: (name) => kept.get(name) ?? null,
    setItem: (name, text) => kept.set(name, text),
    removeItem: (name) => kept.delete(name),
  };
}

function ofTheTab() {
  try {
    return sessionStorage ?? inMemory(); // throws where site data is blocked; null in some apps
  } catch {
    return inMemory();
  }
}

export const storage = ofTheTab();
