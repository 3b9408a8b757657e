//! One WebSocket to the service: frames to fragments and back.

use std::time::Duration;

use anabranch_protocol::{
    ClientFrame, ServerFrame,
    codec::{Assembler, decode_server_frame, encode_client_frame, fragments},
    limits::{FRAGMENT_BYTES_MAX, FRAME_BYTES_MAX},
};
use futures_util::{SinkExt, StreamExt};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the service may be silent: it pings more than twice as often.
const SILENCE_MAX: Duration = Duration::from_secs(50);

/// A connection to the service.
pub(crate) struct Connection {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    assembler: Assembler,
}

impl Connection {
    /// Connects; the error says why not.
    pub(crate) async fn open(url: &str) -> Result<Self, String> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(FRAGMENT_BYTES_MAX))
            .max_frame_size(Some(FRAGMENT_BYTES_MAX))
            .write_buffer_size(0)
            .max_write_buffer_size(4 * FRAGMENT_BYTES_MAX);
        // Frames are small and wait for nobody, so none is held back to be sent with the next.
        let connecting = connect_async_with_config(url, Some(config), true);
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Err(_) => Err(format!("no answer from {url} within {CONNECT_TIMEOUT:?}")),
            Ok(Err(error)) => Err(format!("cannot connect to {url}: {error}")),
            Ok(Ok((socket, _))) => Ok(Self {
                socket,
                assembler: Assembler::new(FRAME_BYTES_MAX),
            }),
        }
    }

    /// The next frame. Dropping the future loses nothing.
    pub(crate) async fn receive(&mut self) -> Result<ServerFrame, String> {
        loop {
            let message = match timeout(SILENCE_MAX, self.socket.next()).await {
                Err(_) => return Err("the service fell silent".to_owned()),
                Ok(None) => return Err("the service closed the connection".to_owned()),
                Ok(Some(Err(error))) => return Err(format!("the connection failed: {error}")),
                Ok(Some(Ok(message))) => message,
            };
            let fragment = match message {
                Message::Binary(fragment) => fragment,
                Message::Close(_) => return Err("the service closed the connection".to_owned()),
                _ => continue,
            };
            let frame = self.assembler.push(&fragment);
            if let Some(frame) = frame.map_err(|error| error.to_string())? {
                return decode_server_frame(&frame).map_err(|error| error.to_string());
            }
        }
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, frame: &ClientFrame) -> Result<(), String> {
        let bytes = encode_client_frame(frame).map_err(|error| error.to_string())?;
        for fragment in fragments(&bytes) {
            let sent = self.socket.send(Message::Binary(fragment.into())).await;
            sent.map_err(|error| format!("the connection failed: {error}"))?;
        }
        Ok(())
    }

    /// Closes, as far as the other side lets it.
    pub(crate) async fn close(mut self) {
        let _ = timeout(Duration::from_millis(200), self.socket.close(None)).await;
    }
}
