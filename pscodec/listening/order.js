// Orders that follow from words: the same seed and listener meet the same order, on any machine.

// A generator of numbers in [0, 1): FNV-1a's hash of `words` starts Marsaglia's xorshift of 32 bits.
export function generator(words) {
  let state = 2166136261;
  for (const byte of new TextEncoder().encode(words)) state = Math.imul(state ^ byte, 16777619);
  state ||= 1; // zero would stay zero
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

// A new array of `items` in an order that `random` draws (Fisher and Yates).
export function shuffled(items, random) {
  const order = [...items];
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
