// Runs in the audio thread: hands on what the microphone hears, in larger pieces than it comes in.

const PIECE = 2048; // samples

registerProcessor(
  "tap",
  class extends AudioWorkletProcessor {
    piece = new Float32Array(PIECE);
    filled = 0;

    process([input]) {
      for (const x of input[0] ?? []) {
        this.piece[this.filled++] = x;
        if (this.filled === PIECE) {
          this.port.postMessage(this.piece.slice());
          this.filled = 0;
        }
      }
      return true;
    }
  },
);
