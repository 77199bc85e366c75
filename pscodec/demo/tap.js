// Runs in the audio thread: hands on what the microphone hears.
registerProcessor(
  "tap",
  class extends AudioWorkletProcessor {
    process([input]) {
      if (input.length) this.port.postMessage(input[0].slice());
      return true;
    }
  },
);
