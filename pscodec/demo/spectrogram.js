// A spectrogram on a canvas: a column a frame of the STFT, low frequencies below.

const SIZE = 1024; // samples of a frame, with a Hann window
const RANGE = 80; // dB below the loudest point of the reference that are shown
const COLOURS = [
  [0, 0, 4],
  [59, 15, 112],
  [140, 41, 129],
  [222, 73, 104],
  [254, 159, 109],
  [252, 253, 191],
]; // from silent to loud, in equal steps

// Levels in dB, `columns` frames of SIZE / 2 bins each, and the loudest of them.
export function levels(wav, columns) {
  const window = Float32Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
  const frames = [];
  let loudest = -Infinity;
  for (let c = 0; c < columns; c++) {
    const start = Math.round(((c + 0.5) * wav.length) / columns - SIZE / 2);
    const real = window.map((w, i) => w * (wav[start + i] ?? 0));
    const imaginary = new Float32Array(SIZE);
    fft(real, imaginary);
    const column = Float32Array.from(
      { length: SIZE / 2 },
      (_, k) => 10 * Math.log10(real[k] ** 2 + imaginary[k] ** 2 + 1e-12),
    );
    loudest = column.reduce((most, x) => Math.max(most, x), loudest);
    frames.push(column);
  }
  return { frames, loudest };
}

export function draw(canvas, { frames }, loudest) {
  canvas.width = frames.length;
  canvas.height = SIZE / 2;
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  frames.forEach((column, x) =>
    column.forEach((level, k) => {
      const share = Math.max(0, Math.min(1, 1 + (level - loudest) / RANGE));
      image.data.set([...colour(share), 255], 4 * ((canvas.height - 1 - k) * canvas.width + x));
    }),
  );
  context.putImageData(image, 0, 0);
}

function colour(share) {
  const place = share * (COLOURS.length - 1);
  const below = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[below].map((x, i) => x + (place - below) * (COLOURS[below + 1][i] - x));
}

// In place: Cooley and Tukey's, for a length that is a power of two.
function fft(real, imaginary) {
  const n = real.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let half = 1; half < n; half *= 2) {
    for (let k = 0; k < half; k++) {
      const [cos, sin] = [Math.cos((Math.PI * k) / half), -Math.sin((Math.PI * k) / half)];
      for (let i = k; i < n; i += 2 * half) {
        const j = i + half;
        const re = real[j] * cos - imaginary[j] * sin;
        const im = real[j] * sin + imaginary[j] * cos;
        [real[j], imaginary[j]] = [real[i] - re, imaginary[i] - im];
        [real[i], imaginary[i]] = [real[i] + re, imaginary[i] + im];
      }
    }
  }
}
