// Creates a container in Azurite: node azurite-container.mjs http://127.0.0.1:10000 NAME
// (`object_store` makes no containers.) The account and key are the emulator's published ones.
import { createHmac } from "node:crypto";

const [, , endpoint, name] = process.argv;
const account = "devstoreaccount1";
const key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const date = new Date().toUTCString();
const headers = `x-ms-date:${date}\nx-ms-version:2021-08-06`;
const resource = `/${account}/${account}/${name}\nrestype:container`;
const text = `PUT\n\n\n\n\n\n\n\n\n\n\n\n${headers}\n${resource}`;
const signature = createHmac("sha256", Buffer.from(key, "base64")).update(text, "utf8").digest("base64");

for (let attempt = 0; ; attempt++) {
  try {
    const response = await fetch(`${endpoint}/${account}/${name}?restype=container`, {
      method: "PUT",
      headers: {
        "x-ms-date": date,
        "x-ms-version": "2021-08-06",
        Authorization: `SharedKey ${account}:${signature}`,
      },
    });
    if (response.status === 201 || response.status === 409) process.exit(0);
    console.error(`${response.status} ${await response.text()}`);
    process.exit(1);
  } catch (error) {
    // Not listening yet; it may take a minute on a busy machine.
    if (attempt >= 900) throw error;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
