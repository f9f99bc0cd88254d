"""ComfyUI as a server, for the demo, the tests and the robustness campaign; and a browser for its page."""
