// What the page brings with it, in script elements that do not run.

export function textOf(id) {
  return document.getElementById(id).textContent;
}

// Bytes that were packed by gzip and base64. The element is emptied: they are wanted once, and large.
export async function unpack(id) {
  const element = document.getElementById(id);
  const text = atob(element.textContent);
  element.remove();
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i); // many times faster than Uint8Array.from
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export function blobUrl(parts, type) {
  return URL.createObjectURL(new Blob(parts, { type }));
}
