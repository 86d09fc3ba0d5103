"""The local batch service (`serve`): the batch protocols of all providers on this machine, before any text generator.

server           the HTTP servers; control_api lets another process control them, if switched on
host_check       refuses requests that a web page may have sent
metrics          /healthz and /metrics
routing          finds the handler of a request; checks keys, applies faults, keeps the log. errors words refusals
http_values      one HTTP request and one response as values, with what the server does to the response on its way out
protocols/       gemini, gemini_files, together, openai, openai_files: handlers, (request, state) -> response;
                 gemini_rows, together_rows, openai_rows: their line formats, chat_rows what the last two share;
                 row_format and families are what the other modules need of a line format and of a protocol
services         the services that openai answers for (DeepInfra, Groq, ...): one row of data each
state            everything the service remembers; storage keeps it on disk
engine           runs the jobs: pending, running, rows answered, ended; result_files writes the rows of a job as files
faults/          which faults to simulate, and when; actions: faults of one call, text_edits: faults of one text
backends/        write the texts: builtin (a script, a small local model), openai_chat (any OpenAI-compatible
                 server), pool (several of them); workers call a slow backend in threads, throttle decides how many
                 rows at once, counts counts the answers
"""
