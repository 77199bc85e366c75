// Recordings, from a file or the microphone, as mono samples (Float32Array) at the codec's rate; and WAV files of them.

export async function decodeFile(bytes, sampleRate) {
  const context = new OfflineAudioContext(1, 1, sampleRate); // decodes to its own rate
  return mono(await context.decodeAudioData(bytes));
}

function mono(buffer) {
  const wav = new Float32Array(buffer.length);
  for (let c = 0; c < buffer.numberOfChannels; c++) {
    buffer.getChannelData(c).forEach((x, i) => (wav[i] += x / buffer.numberOfChannels));
  }
  return wav.map((x) => Math.max(-1, Math.min(1, x)));
}

async function resample(wav, from, to) {
  if (from === to) return wav;
  const context = new OfflineAudioContext(1, Math.ceil((wav.length * to) / from), to);
  const buffer = new AudioBuffer({ length: wav.length, sampleRate: from });
  buffer.copyToChannel(wav, 0);
  const source = new AudioBufferSourceNode(context, { buffer });
  source.connect(context.destination);
  source.start();
  return mono(await context.startRendering());
}

// The microphone while it is open. `onSound(seconds, peak)` is called for every block of samples.
export class Microphone {
  static async open(tapUrl, onSound) {
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    const microphone = new Microphone();
    microphone.stream = await navigator.mediaDevices.getUserMedia({ audio: plain });
    microphone.context = new AudioContext();
    await microphone.context.audioWorklet.addModule(tapUrl);
    const tap = new AudioWorkletNode(microphone.context, "tap", { numberOfOutputs: 0 });
    microphone.blocks = [];
    microphone.length = 0;
    tap.port.onmessage = ({ data }) => {
      microphone.blocks.push(data);
      microphone.length += data.length;
      const peak = data.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
      onSound(microphone.length / microphone.context.sampleRate, peak);
    };
    new MediaStreamAudioSourceNode(microphone.context, { mediaStream: microphone.stream }).connect(tap);
    return microphone;
  }

  async close(sampleRate) {
    this.stream.getTracks().forEach((track) => track.stop());
    const rate = this.context.sampleRate;
    await this.context.close();
    const wav = new Float32Array(this.length);
    let at = 0;
    for (const block of this.blocks) {
      wav.set(block, at);
      at += block.length;
    }
    return resample(wav, rate, sampleRate);
  }
}

export function wavFile(wav, sampleRate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * wav.length));
  const text = (at, letters) => [...letters].forEach((x, i) => view.setUint8(at + i, x.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * wav.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of what describes the samples:
  view.setUint16(20, 1, true); // integers,
  view.setUint16(22, 1, true); // one channel
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * sampleRate, true);
  view.setUint16(32, 2, true); // bytes of a sample of all channels
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * wav.length, true);
  wav.forEach((x, i) => view.setInt16(44 + 2 * i, Math.max(-32768, Math.min(32767, Math.round(32768 * x))), true));
  return view.buffer;
}
