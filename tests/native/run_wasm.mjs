// Calls the functions of a WebAssembly module as asked on standard input; see wasm_backend.py, which asks.
//
// A request is a length (4 bytes, little-endian), JSON of that length, and the bytes that the JSON counts:
// {function, arguments, n_bytes}. An argument is a number, {text}, {bytes: [start, end]} of the request's bytes, or
// {room}: bytes that the function fills. A reply is the same: {result, error, n_bytes}, then what was filled.
import { readFileSync, readSync, writeSync } from "node:fs";

const module = new WebAssembly.Module(readFileSync(process.argv[2]));
const core = new WebAssembly.Instance(module, {}).exports;
core._initialize();

function read(n) {
  const buffer = Buffer.alloc(n);
  for (let at = 0, got; at < n; at += got) {
    got = readSync(0, buffer, at, n - at, null);
    if (got === 0) process.exit(0);
  }
  return buffer;
}

function write(...parts) {
  for (const part of parts) for (let at = 0; at < part.length; ) at += writeSync(1, part, at);
}

const at = (address, n) => new Uint8Array(core.memory.buffer, address >>> 0, n); // addresses come signed

function text(address) {
  const end = new Uint8Array(core.memory.buffer).indexOf(0, address >>> 0);
  return Buffer.from(at(address, end - (address >>> 0))).toString();
}

function call({ function: name, arguments: values }, bytes) {
  if (name === "imports") return { result: WebAssembly.Module.imports(module).length, filled: [] };
  if (name === "pages") return { result: core.memory.buffer.byteLength >> 16, filled: [] };
  if (name === "read") return { result: 1, filled: [Buffer.from(at(...values))] };
  const taken = [];
  const take = (n) => {
    const address = core.ingle_allocate(n) >>> 0;
    if (address === 0) throw new Error(`no memory for ${n} bytes`);
    taken.push(address);
    return address;
  };
  const rooms = [];
  const plain = values.map((value) => {
    if (typeof value === "number") return value;
    if ("room" in value) {
      rooms.push([take(value.room), value.room]);
      return rooms.at(-1)[0];
    }
    const source = "text" in value ? Buffer.from(value.text + "\0") : bytes.subarray(...value.bytes);
    const address = take(source.length);
    at(address, source.length).set(source);
    return address;
  });
  let result = core[`ingle_${name}`](...plain) ?? 0;
  const filled = rooms.map(([address, n]) => Buffer.from(at(address, n)));
  for (const address of taken) core.ingle_free(address);
  return { result, filled };
}

for (;;) {
  const request = JSON.parse(read(read(4).readUInt32LE()).toString());
  const { result, filled } = call(request, read(request.n_bytes));
  const n_bytes = filled.reduce((sum, part) => sum + part.length, 0);
  const header = Buffer.from(JSON.stringify({ result, error: text(core.ingle_error()), n_bytes }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(header.length);
  write(length, header, ...filled);
}
