// The chat page of `ingle serve`. Everything it loads and asks comes from the server that it came from.
import { render } from "preact";
import { takeKeyFromAddress } from "./api";
import { connect } from "./connect";
import { openAll } from "./conversations";
import { App } from "./view/App";

takeKeyFromAddress();
render(<App />, document.getElementById("app") as HTMLElement);
void openAll();
void connect();
