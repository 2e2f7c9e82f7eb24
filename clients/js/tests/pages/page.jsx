// What tests run in a page: they make clients here and look at what these have seen.

import { createRoot } from "react-dom/client";

import { Fanfare } from "../../dist/index.js";
import { useFanfare } from "../../dist/react.js";

/** Starts a client; `window.fanfare` is it, `window.seen` what it got. */
window.start = (options, token) => {
  window.sockets = 0;
  const Plain = window.WebSocket;
  class Counted extends Plain {
    constructor(...given) {
      super(...given);
      window.sockets++;
    }
  }
  window.seen = { notification: [], error: [], subscribed: [], gap: [], states: [] };
  const fanfare = (window.fanfare = new Fanfare({ token: () => token, WebSocket: Counted, ...options }));
  for (const name of ["notification", "error", "subscribed", "gap"]) {
    if (!options.silent || name !== "notification") fanfare.on(name, (event) => void window.seen[name].push(event));
  }
  fanfare.state.subscribe(({ name }) => void window.seen.states.push(name));
};

function List({ fanfare }) {
  const { notifications, unread, state, markRead, more } = useFanfare(fanfare, { limit: 2 });
  return (
    <main>
      <h1>{unread} unread</h1>
      <p id="state">{state.name}</p>
      <ul>
        {notifications.map((one) => (
          <li key={one.id} className={one.read ? "read" : "new"}>
            <button onClick={() => markRead(one)}>{one.title}</button>
          </li>
        ))}
      </ul>
      {more && <button id="more" onClick={more}>More</button>}
    </main>
  );
}

/** Shows the list of a client that was started. */
window.show = () => {
  const root = createRoot(document.getElementById("app"));
  root.render(<List fanfare={window.fanfare} />);
  window.hide = () => root.unmount();
};
