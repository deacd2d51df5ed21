// A chat-completions server for mcp.sh: it calls the tools, and ends once their results are there.
const calls = ["cell", "web"].flatMap((server) => [
  [`mcp__${server}__echo`, { message: "hello" }],
  [`mcp__${server}__get-sum`, { a: 2, b: 3 }],
]);
calls.push(["mcp__cell__get-env", {}]);
const server = require("http").createServer((request, response) => {
  let body = "";
  request.on("data", (part) => (body += part));
  request.on("end", () => {
    const { messages, tools } = JSON.parse(body);
    const offered = tools.map((tool) => tool.function.name);
    const missing = calls.filter(([name]) => !offered.includes(name));
    const done = messages.some((message) => message.role === "tool");
    const delta =
      done || missing.length
        ? { content: missing.length ? `not offered: ${missing}` : "Done." }
        : {
            tool_calls: calls.map(([name, args], index) => ({
              index,
              id: `c${index}`,
              type: "function",
              function: { name, arguments: JSON.stringify(args) },
            })),
          };
    response.writeHead(200, { "content-type": "text/event-stream" });
    const say = (event) => response.write(`data: ${JSON.stringify(event)}\n\n`);
    say({ choices: [{ delta }] });
    say({ choices: [{ delta: {}, finish_reason: delta.content ? "stop" : "tool_calls" }] });
    say({ choices: [], usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } });
    response.end("data: [DONE]\n\n");
  });
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/v1`));
