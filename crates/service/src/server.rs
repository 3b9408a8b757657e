//! The listener: the WebSocket endpoint and the health check, and a handle to stop them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anabranch_protocol::limits::FRAGMENT_BYTES_MAX;
use anabranch_store::Store;
use axum::{
    Router,
    extract::{State, WebSocketUpgrade},
    response::Response,
    routing::get,
    serve::ListenerExt,
};
use thiserror::Error;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tracing::{debug, info};

use crate::{
    connection,
    engine::{Engine, Event},
    housekeeping,
    hub::HubConfig,
};

/// The path that replicas connect to.
pub const SYNC_PATH: &str = "/v1/sync";

/// Bytes that one connection's reader holds ahead; the default of the WebSocket library is sixteen
/// times as much, for each idle connection.
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// Bytes that one connection's writer holds: a few fragments.
const WRITE_BUFFER_BYTES: usize = 4 * FRAGMENT_BYTES_MAX;

/// Why the service could not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another `listen` address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A running service. Dropping it leaves the service running; [`Service::stop`] ends it.
#[derive(Debug)]
pub struct Service {
    address: SocketAddr,
    events: mpsc::Sender<Event>,
    listener: JoinHandle<()>,
    housekeeping: Option<JoinHandle<()>>,
}

impl Service {
    /// Serves `store` on `address`; port 0 takes a free one.
    pub async fn start(
        store: Arc<dyn Store>,
        config: HubConfig,
        address: SocketAddr,
    ) -> Result<Self, StartError> {
        let listen_error = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let events = Engine::start(store, config);
        let routes = Router::new()
            .route(SYNC_PATH, get(upgrade))
            .route("/health", get(|| async { "ok\n" }))
            .with_state(events.clone());
        // Frames are small and wait for nobody, so none is held back to be sent with the next.
        let listener = listener.tap_io(|connection| {
            if let Err(error) = connection.set_nodelay(true) {
                debug!(%error, "a connection cannot be told to send at once");
            }
        });
        let listener = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "the listener failed");
            }
        });
        info!(%address, "listening");
        Ok(Self {
            address,
            events,
            listener,
            housekeeping: None,
        })
    }

    /// Has rows forgotten that were deleted longer than `retention` ago, now and then. Without this
    /// the store keeps what it must know of deleted rows for good.
    #[must_use]
    pub fn forgetting_after(mut self, store: Arc<dyn Store>, retention: Duration) -> Self {
        let earlier = self
            .housekeeping
            .replace(housekeeping::start(store, retention));
        if let Some(earlier) = earlier {
            earlier.abort();
        }
        self
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that replicas connect to.
    pub fn url(&self) -> String {
        format!("ws://{}{SYNC_PATH}", self.address)
    }

    /// Stops listening and ends the sessions. Replicas keep what has not been acknowledged and push it
    /// again.
    pub async fn stop(self) {
        self.listener.abort();
        if let Some(housekeeping) = self.housekeeping {
            housekeeping.abort();
        }
        // Only then is the address free again.
        let _ = self.listener.await;
        let _ = self.events.send(Event::Shutdown).await;
        self.events.closed().await;
    }
}

async fn upgrade(State(events): State<mpsc::Sender<Event>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade
        .max_message_size(FRAGMENT_BYTES_MAX)
        .max_frame_size(FRAGMENT_BYTES_MAX)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER_BYTES)
        .on_upgrade(move |socket| connection::serve(socket, events))
}
