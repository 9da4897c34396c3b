/**
 * Values that can be watched, and lists of listeners.
 * @module
 */

/** Ends what began when it was given. */
export type Unsubscribe = () => void;

/** Listeners of one kind of event. What one throws reaches neither the others nor whoever tells them. */
export class Listeners<A extends readonly unknown[]> {
  private readonly all = new Set<(...args: A) => void>();

  /** Adds a listener; the same function twice is two listeners. */
  add(listener: (...args: A) => void): Unsubscribe {
    const each = (...args: A): void => listener(...args);
    this.all.add(each);
    return () => void this.all.delete(each);
  }

  /** Tells all who are there now. */
  tell(...args: A): void {
    for (const listener of [...this.all]) {
      // One that was removed by another meanwhile is not told any more.
      if (this.all.has(listener)) guarded(() => listener(...args));
    }
  }

  /** How many there are. */
  get size(): number {
    return this.all.size;
  }

  /** Forgets all. */
  clear(): void {
    this.all.clear();
  }
}

/** Calls what an application gave. What it throws is reported as an error that nobody caught. */
export function guarded(call: () => void): void {
  try {
    call();
  } catch (error) {
    if (typeof reportError === "function") reportError(error);
    else {
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}

/** A value that changes as a whole. */
export class Signal<T> {
  private readonly listeners = new Listeners<[T]>();

  constructor(private current: T) {}

  /** The value now. */
  get value(): T {
    return this.current;
  }

  /** Another value; listeners are told if it differs. */
  set(value: T): void {
    if (isSame(this.current, value)) return;
    this.current = value;
    this.listeners.tell(value);
  }

  /** Watches it; the listener is not told of the value that there is already. */
  subscribe(listener: (value: T) => void): Unsubscribe {
    return this.listeners.add(listener);
  }
}

/** Whether two flat objects, or two values, are the same. */
export function isSame(one: unknown, other: unknown): boolean {
  if (Object.is(one, other)) return true;
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return false;
  const names = Object.keys(one);
  if (names.length !== Object.keys(other).length) return false;
  return names.every((name) => Object.is(Reflect.get(one, name), Reflect.get(other, name)));
}
