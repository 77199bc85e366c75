// Plays one of several versions of a recording; a change of version goes on at the same place.

export class Player {
  // `onFrame(version, share)`: where it is, as a share of the recording; version is null when it stands still.
  constructor(onFrame) {
    this.onFrame = onFrame;
    this.version = null;
    this.place = 0; // seconds
  }

  toggle(version, buffer) {
    if (this.version === version) this.stop();
    else this.play(version, buffer, this.now());
  }

  play(version, buffer, place) {
    this.halt();
    this.context ??= new AudioContext();
    this.context.resume();
    this.place = place >= buffer.duration - 0.05 ? 0 : place;
    this.begun = this.context.currentTime;
    this.version = version;
    this.source = new AudioBufferSourceNode(this.context, { buffer });
    this.source.connect(this.context.destination);
    this.source.onended = () => {
      this.place = 0;
      this.version = null;
      this.onFrame(null, 0);
    };
    this.source.start(0, this.place);
    this.duration = buffer.duration;
    this.follow();
  }

  stop() {
    this.place = this.now();
    this.halt();
    this.onFrame(null, this.duration ? this.place / this.duration : 0);
  }

  // Back to the beginning, as for another recording.
  reset() {
    this.halt();
    this.place = 0;
  }

  now() {
    return this.version === null ? this.place : this.place + this.context.currentTime - this.begun;
  }

  halt() {
    if (!this.source) return;
    this.source.onended = null;
    this.source.stop();
    this.source = this.version = null;
  }

  follow() {
    if (this.version === null) return;
    this.onFrame(this.version, Math.min(1, this.now() / this.duration));
    requestAnimationFrame(() => this.follow());
  }
}
