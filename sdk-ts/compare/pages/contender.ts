/**
 * What each contender does, and how it is measured: the same code around all.
 *
 * A page shows the whole text in one element: what is measured ends when the text stands there.
 */

export interface Contender {
  /** Opens a document, a new one without `id`, and gives its name once there is a copy. `changed` gets the text. */
  open(url: string, id: string | undefined, changed: (text: string) => void): Promise<string>;
  insert(at: number, text: string): void;
  /** Resolves when edits are as safe as the contender can tell. */
  saved(): Promise<void>;
}

export interface Bench {
  length: number;
  openedMs: number | undefined;
  /** When the text first had at least this many characters, since the page was asked for. */
  waitFor(length: number): Promise<number>;
  /** Makes edits on a schedule; gives when each was due, in milliseconds since the epoch. */
  edits(count: number, everyMs: number): Promise<number[]>;
  /** When the text had each length from now on, in milliseconds since the epoch. */
  listen(): void;
  heard(): [length: number, atMs: number][];
  /** Makes many edits of one character each at places of a fixed pseudo-random order. */
  fill(count: number): Promise<void>;
  wasmBytes(): number;
  saved(): Promise<void>;
}

declare global {
  interface Window {
    bench: Bench;
    opened: Promise<string>;
  }
}

/** WebAssembly's memory is not in the heap that browsers count. */
const memories: WebAssembly.Memory[] = [];
function watchMemories(): void {
  const watch = (instance: WebAssembly.Instance): void => {
    for (const value of Object.values(instance.exports)) if (value instanceof WebAssembly.Memory) memories.push(value);
  };
  const { instantiate, instantiateStreaming, Instance } = WebAssembly;
  const seen = (result: WebAssembly.WebAssemblyInstantiatedSource | WebAssembly.Instance): void =>
    watch("instance" in result ? result.instance : (result as WebAssembly.Instance));
  WebAssembly.instantiate = (async (...args: Parameters<typeof instantiate>) => {
    const result = await instantiate(...args);
    seen(result as never);
    return result;
  }) as never;
  WebAssembly.instantiateStreaming = async (...args) => {
    const result = await instantiateStreaming(...args);
    seen(result);
    return result;
  };
  WebAssembly.Instance = class extends Instance {
    constructor(...args: ConstructorParameters<typeof Instance>) {
      super(...args);
      watch(this);
    }
  } as never;
}

watchMemories();

const nowMs = (): number => performance.timeOrigin + performance.now();

/** Puts a contender on the page. */
export function contend(contender: Contender): void {
  const query = new URLSearchParams(location.search);
  const shown = document.querySelector("pre")!;
  let waiting: { length: number; resolve: (ms: number) => void }[] = [];
  const reached: [length: number, atMs: number][] = [];
  let heard: [number, number][] | undefined;
  const changed = (text: string): void => {
    shown.textContent = text;
    bench.length = text.length;
    heard?.push([text.length, nowMs()]);
    reached.push([text.length, performance.now()]);
    const done = waiting.filter(({ length }) => length <= text.length);
    waiting = waiting.filter(({ length }) => length > text.length);
    for (const { resolve } of done) resolve(performance.now());
  };
  const bench: Bench = {
    length: 0,
    openedMs: undefined,
    waitFor: (length) =>
      new Promise((resolve) => {
        const before = reached.find(([each]) => each >= length);
        if (before === undefined) waiting.push({ length, resolve });
        else resolve(before[1]);
      }),
    async edits(count, everyMs) {
      const beginMs = nowMs() + everyMs;
      const due = Array.from({ length: count }, (_, index) => beginMs + index * everyMs);
      for (const dueMs of due) {
        // Later than due is not put off further: the schedule is open.
        const restMs = dueMs - nowMs();
        if (restMs > 0) await new Promise((resolve) => setTimeout(resolve, restMs));
        contender.insert(bench.length, "x");
      }
      return due;
    },
    listen: () => void (heard = []),
    heard: () => heard ?? [],
    async fill(count) {
      let seed = 1;
      for (let done = 0; done < count; done += 1) {
        seed = (seed * 48_271) % 2_147_483_647;
        contender.insert(seed % (bench.length + 1), "abcdefghij"[done % 10]!);
        if (done % 50 === 49) await contender.saved();
      }
      await contender.saved();
    },
    saved: () => contender.saved(),
    wasmBytes: () => memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0),
  };
  window.bench = bench;
  window.opened = contender.open(query.get("server")!, query.get("id") ?? undefined, changed).then((id) => {
    bench.openedMs = performance.now();
    return id;
  });
}
