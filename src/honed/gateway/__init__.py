"""The stable address: model traffic in, relayed to llama-server, captured on the way, switched
underneath.

Names are imported from the modules, not from here: `llama_child` runs as a process of its own
    beside every llama-server and must not load the gateway.

    relay           the hot path: route, count, relay bytes as they come
    browser         what web pages may do: nothing, but those of this machine
    upstream        one fresh connection to llama-server per request
    capture, merge  what was said, as `llm_call` events
    receipt         by which name an outcome may speak of it, in a stream's last events
    feed, shelf     events to the daemon over a feed_link; on disk while it is away
    lane            one scenario: its state, its server, the way back after a crash
    waiting         requests that find no server
    backend         a server in service, and its pulse
    switch, probe   blue/green, and the proof that the right adapter answers
    adapter         what must be in an adapter's folder, unchanged
    llama_server    one child process; llama_child is what runs in it
    control, state  what daemons ask over `serve.sock`, and what is remembered over a restart
"""
