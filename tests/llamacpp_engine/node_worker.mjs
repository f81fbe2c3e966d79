// One request a line on stdin, one answer a line on stdout: what engines.py asks of node-llama-cpp.
import readline from "node:readline";
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

let logged = [];
const llama = await getLlama({
    build: "never", gpu: false, maxThreads: 1, skipDownload: true, logLevel: LlamaLogLevel.warn,
    logger: (level, message) => logged.push(message)
});
const model = await llama.loadModel({modelPath: process.argv[2]});
let context = null;
let sequences = [];

const doing = {
    hello: async () => ({release: llama.llamaCppRelease}),
    open: async ({context: size, flash, sequences: count, key, value}) => {
        if (context != null) await context.dispose();
        context = await model.createContext({
            contextSize: size, flashAttention: flash, sequences: count, threads: 1,
            experimentalKvCacheKeyType: key, experimentalKvCacheValueType: value
        });
        sequences = Array.from({length: count}, () => context.getSequence());
        return {};
    },
    tokenize: async ({text}) => ({tokens: model.tokenize(text)}),
    go_on: async ({tokens, count, slot}) => {
        const sequence = sequences[slot];
        // the last token is evaluated again where all of them are in the cache
        await sequence.adaptStateToTokens(count > 0 ? tokens.slice(0, -1) : tokens, false);
        const reused = sequence.nextTokenIndex;
        const out = [];
        if (count === 0)
            await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(reused));
        else
            for await (const token of sequence.evaluate(tokens.slice(reused), {temperature: 0})) {
                out.push(token);
                if (out.length === count) break;
            }
        return {tokens: out, reused};
    },
    save: async ({path, slot}) => sequences[slot].saveStateToFile(path),
    restore: async ({path, slot}) => {
        await sequences[slot].loadStateFromFile(path, {acceptRisk: true});
        return {};
    },
    erase: async ({slot}) => {
        await sequences[slot].clearHistory();
        return {};
    }
};

for await (const line of readline.createInterface({input: process.stdin})) {
    const {do: what, ...more} = JSON.parse(line);
    logged = [];
    let answer;
    try {
        answer = await doing[what](more);
    } catch (error) {
        await new Promise((done) => setTimeout(done, 50)); // messages come a little later
        answer = {error: [String(error), ...logged].join("\n")};
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
