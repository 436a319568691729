// Reads WebSocket frames (RFC 6455 section 5.2) off a byte stream: an observer for tests, independent of the
// libraries under test and of the gateway. Payloads are kept as they stand on the wire.

export class FrameReader {
  frames = [];
  #rest = Buffer.alloc(0);

  push(bytes) {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    for (let frame; (frame = this.#next()); ) this.frames.push(frame);
  }

  #next() {
    const buffer = this.#rest;
    if (buffer.length < 2) return null;
    const masked = (buffer[1] & 0x80) !== 0;
    let length = buffer[1] & 0x7f;
    let head = 2;
    if (length === 126) {
      if (buffer.length < 4) return null;
      length = buffer.readUInt16BE(2);
      head = 4;
    } else if (length === 127) {
      if (buffer.length < 10) return null;
      length = Number(buffer.readBigUInt64BE(2));
      head = 10;
    }
    if (masked) head += 4;
    if (buffer.length < head + length) return null;
    this.#rest = buffer.subarray(head + length);
    return {
      fin: (buffer[0] & 0x80) !== 0,
      rsv1: (buffer[0] & 0x40) !== 0,
      opcode: buffer[0] & 0x0f,
      masked,
      length,
    };
  }
}
