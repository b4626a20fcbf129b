// A replicated counter: a command is a number in JSON that is added, and the reply is the sum so far.
//
// A query is `null`, and its reply the sum. zraft runs this on every replica, with the same commands in the same order,
// and all must reach the same state: follow the state and the arguments alone. In `apply` and `query` an exception ends the
// instance; to refuse, return a reply with the tag `err`. The other functions refuse by throwing a string.

// Names the format of the state in snapshots. Change it when an older snapshot would be misread.
const VERSION = "counter 1";

// What every query watches and every command changes: it fires the triggers of those who watch.
const VALUE = new TextEncoder().encode("value");

let count = 0;

class SnapshotReader {
  // Equal states must be written as equal bytes.
  rest = encode(count);

  next(maxBytes) {
    const chunk = this.rest.slice(0, maxBytes);
    this.rest = this.rest.slice(maxBytes);
    return chunk.length > 0 ? chunk : undefined;
  }
}

class SnapshotWriter {
  text = "";

  // Chunks may be cut anywhere; this state is plain ASCII, so no cut goes through a character.
  write(chunk) {
    this.text += new TextDecoder().decode(chunk);
  }

  static finish(writer) {
    const restored = decode(writer.text);
    if (restored === undefined) throw "the snapshot is no number";
    count = restored;
  }
}

export const machine = {
  version: () => VERSION,

  init(config) {
    if (config.length > 0) throw "the counter takes no config";
  },

  apply: (commands) => commands.map(apply),

  query(request) {
    if (new TextDecoder().decode(request) !== "null") {
      return { reply: { tag: "err", val: "malformed query: it must be null" }, watched: [] };
    }
    return { reply: { tag: "ok", val: encode(count) }, watched: [VALUE] };
  },

  // Nothing here belongs to a session.
  expireSession: (index, timeMs, session) => [],

  snapshot: () => new SnapshotReader(),

  restore(origin) {
    if (origin.version !== VERSION) {
      throw `the snapshot's format is '${origin.version}' and this backend reads '${VERSION}'`;
    }
    return new SnapshotWriter();
  },

  SnapshotReader,
  SnapshotWriter,
};

function apply(command) {
  const by = decode(new TextDecoder().decode(command.data));
  if (by === undefined) return refuse("malformed command: it must be a whole number");
  // Beyond, numbers are not exact.
  if (!Number.isSafeInteger(count + by)) return refuse("the counter is full");
  count += by;
  return { reply: { tag: "ok", val: encode(count) }, changed: [VALUE] };
}

function refuse(reason) {
  return { reply: { tag: "err", val: reason }, changed: [] };
}

function encode(number) {
  return new TextEncoder().encode(String(number));
}

// A whole number, or undefined. Whatever a client sends must not throw.
function decode(text) {
  try {
    const number = JSON.parse(text);
    // Adding 0 makes 0 of -0, which would be written differently.
    return Number.isSafeInteger(number) ? number + 0 : undefined;
  } catch {
    return undefined;
  }
}
