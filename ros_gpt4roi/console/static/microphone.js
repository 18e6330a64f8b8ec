// Cuts what a microphone hears into pieces of 16-bit PCM, in the browser's thread of sound.

const PIECE = 1024;

class Pieces extends AudioWorkletProcessor {
  piece = new Int16Array(PIECE);
  count = 0;

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.piece[this.count++] = Math.round(32767 * Math.max(-1, Math.min(1, sample)));
      if (this.count < PIECE) continue;
      this.port.postMessage(this.piece.buffer, [this.piece.buffer]);
      this.piece = new Int16Array(PIECE);
      this.count = 0;
    }
    return true;
  }
}

registerProcessor("pieces", Pieces);
