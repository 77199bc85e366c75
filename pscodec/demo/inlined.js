// What the page brings with it, in script elements that do not run.

export function textOf(id) {
  return document.getElementById(id).textContent;
}

// Bytes that were packed by gzip and base64. The element is emptied: they are wanted once, and large.
export async function unpack(id) {
  const element = document.getElementById(id);
  const text = atob(element.textContent);
  element.remove();
  const packed = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export function blobUrl(parts, type) {
  return URL.createObjectURL(new Blob(parts, { type }));
}
