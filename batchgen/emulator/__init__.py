"""The local batch service (`serve`): both providers' batch protocols on this machine, in front of any text generator.

http_values      one HTTP request and one response as values, with what the server does to the response on its way out
routing          finds the handler of a request; checks keys, applies faults, keeps the log. errors words refusals
gemini, gemini_files, together    handlers: (request, state) -> response
gemini_rows, together_rows        the line formats of both providers; row_format is what the other modules need of them
state            everything the service remembers; storage keeps it on disk
faults           what shall go wrong, and when; actions is what can happen to one call, text_edits to one text
result_files     writes the rows of a job as result files, with the faults of rows
engine           jobs wait, run, get their rows answered, and end
backends         what writes the texts: builtin (a script, a small local model), openai_chat (any OpenAI-compatible
                 server); workers ask a slow one in threads, throttle decides how many rows at once
server           the HTTP servers around all that; control_api drives them from another process, where asked for
host_check       refuses requests that a web page may have sent
"""
