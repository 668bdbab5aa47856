"""An HTTP server with the OpenAI API, for clients that know it: needs the extra `serve`."""
