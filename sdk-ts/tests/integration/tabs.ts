/** Tabs of one browser within one process: real messages between them, and locks as browsers have them. */

import type { TabsHost, TabChannel, Locks } from "../../src/tabs/host.js";
import { world } from "../../src/environment.js";
import type { Environment } from "../../src/index.js";

interface Request {
  readonly mode: "exclusive" | "shared";
  readonly owner: Tab;
  grant(): void;
  fail(): void;
}

/** The locks of one origin. */
export class Origin {
  readonly held = new Map<string, Request[]>();
  readonly queues = new Map<string, Request[]>();

  private readonly waiters = new Set<() => void>();

  /** Waits until this holds of the locks. */
  granted(holds: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      const look = (): void => {
        if (!holds()) return;
        this.waiters.delete(look);
        resolve();
      };
      this.waiters.add(look);
      look();
    });
  }

  /** Opens a tab. */
  tab(): Tab {
    return new Tab(this);
  }

  /** Gives a lock to whoever is next. */
  next(name: string): void {
    const held = this.held.get(name) ?? [];
    const queue = this.queues.get(name) ?? [];
    const [first] = queue;
    if (first === undefined) return;
    const isFree = held.length === 0 || (first.mode === "shared" && held.every(({ mode }) => mode === "shared"));
    if (!isFree) return;
    queue.shift();
    this.held.set(name, [...held, first]);
    queueMicrotask(() => {
      first.grant();
      for (const look of [...this.waiters]) look();
    });
    this.next(name);
  }
}

/** One tab, which can crash. */
export class Tab implements TabsHost {
  isCrashed = false;
  private readonly channels: BroadcastChannel[] = [];
  readonly locks: Locks;

  constructor(private readonly origin: Origin) {
    this.locks = { request: (name, options, held) => this.request(name, options, held) };
  }

  /** For a client in this tab. */
  get environment(): Environment {
    return { ...world, tabs: this };
  }

  isVisible(): boolean {
    return true;
  }

  channel(name: string): TabChannel {
    const channel = new BroadcastChannel(name);
    this.channels.push(channel);
    return {
      postMessage: (message) => {
        if (!this.isCrashed) channel.postMessage(message);
      },
      addEventListener: (type, listener) =>
        channel.addEventListener(type, (event) => {
          if (!this.isCrashed) listener(event as MessageEvent);
        }),
      close: () => channel.close(),
    };
  }

  /** The tab is gone without a word: its locks are free, and it says and hears nothing. */
  crash(): void {
    this.isCrashed = true;
    for (const channel of this.channels) channel.close();
    for (const [name, held] of [...this.origin.held]) {
      this.origin.held.set(name, held.filter(({ owner }) => owner !== this));
      this.origin.queues.set(name, (this.origin.queues.get(name) ?? []).filter(({ owner }) => owner !== this));
      this.origin.next(name);
    }
  }

  /** Whether it holds a lock whose name ends so. */
  holds(isIt: (name: string) => boolean): boolean {
    return [...this.origin.held].some(([name, held]) => isIt(name) && held.some(({ owner }) => owner === this));
  }

  private request(
    name: string,
    { mode = "exclusive", signal, steal = false }: { mode?: "exclusive" | "shared"; signal?: AbortSignal; steal?: boolean },
    held: () => Promise<void> | void,
  ): Promise<unknown> {
    const { origin } = this;
    return new Promise((resolve, reject) => {
      const aborted = (): Error => Object.assign(new Error("given up"), { name: "AbortError" });
      const request: Request = {
        mode,
        owner: this,
        grant: () => {
          const free = (): void => {
            origin.held.set(name, (origin.held.get(name) ?? []).filter((each) => each !== request));
            origin.next(name);
          };
          Promise.resolve(this.isCrashed ? undefined : held()).then(resolve, reject).finally(free);
        },
        fail: () => reject(aborted()),
      };
      if (signal?.aborted === true) return reject(aborted());
      signal?.addEventListener("abort", () => {
        const queue = origin.queues.get(name) ?? [];
        if (!queue.includes(request)) return;
        origin.queues.set(name, queue.filter((each) => each !== request));
        reject(aborted());
      });
      if (steal) {
        for (const each of origin.held.get(name) ?? []) each.fail();
        origin.held.set(name, []);
        origin.queues.set(name, [request, ...(origin.queues.get(name) ?? [])]);
      } else origin.queues.set(name, [...(origin.queues.get(name) ?? []), request]);
      origin.next(name);
    });
  }
}
