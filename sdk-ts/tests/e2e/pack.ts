/** The package as it is published: packed, and unpacked into a folder of its own. */

import { execFileSync } from "node:child_process";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The SDK's folder. */
export const SDK: string = fileURLToPath(new URL("../../", import.meta.url));

/** Unpacks the packed tarball below `directory/node_modules`, and tells where; what it depends on is linked. */
export function unpack(directory: string): string {
  const arguments_ = ["pack", "--ignore-scripts", "--json", "--pack-destination", directory];
  const packed = execFileSync("npm", arguments_, { cwd: SDK, stdio: ["ignore", "pipe", "ignore"] });
  const [{ filename }] = JSON.parse(packed.toString()) as [{ filename: string }];
  const folder = join(directory, "node_modules/@etherply/sdk");
  mkdirSync(folder, { recursive: true });
  execFileSync("tar", ["-xzf", join(directory, filename), "-C", folder, "--strip-components=1"]);
  for (const name of ["@automerge", "ws", "react"]) {
    symlinkSync(join(SDK, "node_modules", name), join(directory, "node_modules", name));
  }
  return folder;
}
