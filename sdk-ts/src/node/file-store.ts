/**
 * Keeps documents in files, for programs in Node. Import it from `@etherply/sdk/node`.
 *
 * A document is one file: what was kept as a whole, then batches behind it, each with its length and a checksum. A
 * batch that was torn by a crash is passed over, as is all behind it. A file that grew is written anew under another
 * name, synced, and put in its place.
 * @module
 */

import { createHash } from "node:crypto";
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { join } from "node:path";
import { deserialize, serialize } from "node:v8";
import { localError } from "../errors.js";
import { merged } from "../store/store.js";
import type { Batch, DocumentStore, Store, Stored } from "../store/store.js";

/** How documents are kept in files. */
export interface FileStoreOptions {
  /** The directory; made if it is not there. One program at a time uses it. */
  readonly directory: string;
  /** Whose edits these are: another subject does not get them. */
  readonly subject: string;
}

const MAGIC = Buffer.from("EPSTORE1");
const HASH_BYTES = 8;
const PREFIX_BYTES = 4 + HASH_BYTES;

/** A store in files. */
export function fileStore({ directory, subject }: FileStoreOptions): Store {
  return {
    document(id) {
      const name = createHash("sha256").update(JSON.stringify([subject, id])).digest("hex");
      return new FileDocument(directory, join(directory, `${name}.etherply`));
    },
  };
}

class FileDocument implements DocumentStore {
  private file: FileHandle | undefined;
  private stored: Stored | undefined;
  /** Whether the file may end in a batch that is not whole, which would hide all that came behind it. */
  private isTorn = false;
  /** One after the other, whoever asks. */
  private last: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly directory: string,
    private readonly path: string,
  ) {}

  read(): Promise<Stored | undefined> {
    return this.next(async () => {
      this.stored = replay(await readFile(this.path).catch(absent));
      return this.stored;
    });
  }

  write(batch: Batch): Promise<boolean> {
    return this.next(async () => {
      const { stored, taken } = merged(this.stored, batch);
      if (this.file === undefined || this.isTorn || batch.copy !== undefined || batch.replaces) {
        await this.rewrite(stored);
      } else {
        this.isTorn = true;
        await this.file.appendFile(record({ batch }));
        await this.file.datasync();
        this.isTorn = false;
      }
      this.stored = stored;
      return taken;
    });
  }

  remove(): Promise<void> {
    return this.next(async () => {
      await this.file?.close();
      this.file = undefined;
      this.stored = undefined;
      await rm(this.path, { force: true });
    });
  }

  close(): void {
    void this.next(async () => {
      await this.file?.close();
      this.file = undefined;
    });
  }

  /** Puts a file with everything in the place of the one before. */
  private async rewrite(stored: Stored): Promise<void> {
    await this.file?.close();
    this.file = undefined;
    await mkdir(this.directory, { recursive: true });
    const draft = `${this.path}.new`;
    const file = await open(draft, "w");
    try {
      await file.writeFile(Buffer.concat([MAGIC, record({ stored })]));
      await file.datasync();
      await rename(draft, this.path);
      const directory = await open(this.directory, "r");
      await directory.sync().finally(() => directory.close());
    } catch (error) {
      await file.close();
      throw error;
    }
    this.file = file;
    this.isTorn = false;
  }

  private next<T>(task: () => Promise<T>): Promise<T> {
    const done = this.last.then(task).catch((cause: unknown) => {
      throw localError("store_failed", `${this.path} does not keep the document`, cause);
    });
    this.last = done.catch(() => undefined);
    return done;
  }
}

type Record = { readonly stored: Stored } | { readonly batch: Batch };

function checksum(body: Uint8Array): Buffer {
  return createHash("sha256").update(body).digest().subarray(0, HASH_BYTES);
}

function record(content: Record): Buffer {
  const body = serialize(content);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(body.length);
  return Buffer.concat([length, checksum(body), body]);
}

/** What a file's batches come to, up to the first one that is not whole. */
function replay(bytes: Buffer | undefined): Stored | undefined {
  if (bytes === undefined) return undefined;
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) throw new Error("the file is not one of this store's");
  let stored: Stored | undefined;
  let at = MAGIC.length;
  while (at + PREFIX_BYTES <= bytes.length) {
    const end = at + PREFIX_BYTES + bytes.readUInt32LE(at);
    const body = bytes.subarray(at + PREFIX_BYTES, end);
    if (end > bytes.length || !checksum(body).equals(bytes.subarray(at + 4, at + PREFIX_BYTES))) break;
    const content = deserialize(body) as Record;
    stored = "stored" in content ? content.stored : merged(stored, content.batch).stored;
    at = end;
  }
  return stored;
}

function absent(error: NodeJS.ErrnoException): undefined {
  if (error.code === "ENOENT") return undefined;
  throw error;
}
