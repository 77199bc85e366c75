// The sounds of a trial. Where `together`, a change of sound goes on at the same place, and they repeat.

export class Player {
  constructor(ids, together, onChange) {
    this.together = together;
    this.onChange = onChange; // (id that plays, or null)
    this.playing = null;
    this.sounds = new Map(ids.map((id) => [id, this.load(id)]));
  }

  load(id) {
    const sound = new Audio(`audio/${id}.wav`);
    sound.preload = "auto";
    sound.loop = this.together;
    sound.onended = () => this.stop();
    return sound;
  }

  async play(id) {
    const before = this.sounds.get(this.playing);
    const place = before && this.together ? before.currentTime : 0;
    before?.pause();
    const sound = this.sounds.get(id);
    sound.currentTime = place;
    this.playing = id;
    await sound.play();
    if (this.playing === id) this.onChange(id);
  }

  stop() {
    this.sounds.get(this.playing)?.pause();
    this.playing = null;
    this.onChange(null);
  }
}
