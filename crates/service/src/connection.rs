//! One WebSocket connection: fragments to frames and back, pings, deadlines. It knows nothing of
//! what the frames mean.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anabranch_protocol::{
    ServerFrame,
    codec::{Assembler, decode_client_frame, encode_server_frame, fragments},
    limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX},
};
use axum::extract::ws::{Message, WebSocket};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{sync::mpsc, time::timeout};
use tracing::{debug, warn};

use crate::{
    engine::{Event, Outgoing},
    hub::SessionId,
    limits::{HELLO_TIMEOUT_MS, PING_INTERVAL_MS, WRITER_QUEUE_FRAMES},
};

/// Numbers connections, over the life of the process.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Serves a connection until either side ends it.
pub(crate) async fn serve(socket: WebSocket, events: mpsc::Sender<Event>) {
    let id = SessionId(NEXT.fetch_add(1, Ordering::Relaxed));
    let (sink, stream) = socket.split();
    let (writer, outgoing) = mpsc::channel(WRITER_QUEUE_FRAMES);
    let welcomed = Arc::new(AtomicBool::new(false));
    if events.send(Event::Connected { id, writer }).await.is_err() {
        return;
    }
    let write = write(id, sink, outgoing, events.clone(), Arc::clone(&welcomed));
    let read = read(id, stream, &events, &welcomed);
    tokio::select! {
        () = read => {}
        () = write => {}
    }
    let _ = events.send(Event::Disconnected(id)).await;
}

async fn read(
    id: SessionId,
    mut stream: SplitStream<WebSocket>,
    events: &mpsc::Sender<Event>,
    welcomed: &AtomicBool,
) {
    let mut assembler = Assembler::new(HELLO_BYTES_MAX);
    loop {
        let open = welcomed.load(Ordering::Relaxed);
        if open {
            assembler.set_limit(FRAME_BYTES_MAX);
        }
        let patience_ms = if open {
            PING_INTERVAL_MS * 2
        } else {
            HELLO_TIMEOUT_MS
        };
        let message = match timeout(Duration::from_millis(patience_ms), stream.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return debug!(%error, "a connection failed"),
            Ok(None) => return,
            Err(_) => return debug!("a connection fell silent"),
        };
        let outcome = match message {
            Message::Binary(bytes) => assembler
                .push(&bytes)
                .and_then(|frame| frame.map(|frame| decode_client_frame(&frame)).transpose()),
            Message::Text(_) => {
                let reason = "a text message, where frames are binary".to_owned();
                let _ = events.send(Event::Garbage { id, reason }).await;
                return park().await;
            }
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(frame)) => {
                if events.send(Event::Received { id, frame }).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                let _ = events
                    .send(Event::Garbage {
                        id,
                        reason: error.to_string(),
                    })
                    .await;
                return park().await;
            }
        }
    }
}

/// Leaves the last word to the writer, which closes the connection once it has told why.
async fn park() {
    tokio::time::sleep(Duration::from_millis(HELLO_TIMEOUT_MS)).await;
}

async fn write(
    id: SessionId,
    mut sink: SplitSink<WebSocket, Message>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    events: mpsc::Sender<Event>,
    welcomed: Arc<AtomicBool>,
) {
    let mut ping = tokio::time::interval(Duration::from_millis(PING_INTERVAL_MS));
    loop {
        let next = tokio::select! {
            next = outgoing.recv() => next,
            _ = ping.tick() => {
                if sink.send(Message::Ping(Vec::new().into())).await.is_err() {
                    return;
                }
                continue;
            }
        };
        match next {
            Some(Outgoing::Frame(frame)) => {
                if matches!(*frame, ServerFrame::Welcome { .. }) {
                    welcomed.store(true, Ordering::Relaxed);
                }
                if !send(&mut sink, &frame).await {
                    return;
                }
                if outgoing.is_empty() && events.send(Event::Writable(id)).await.is_err() {
                    return;
                }
            }
            Some(Outgoing::Close) | None => {
                let _ = sink.close().await;
                return;
            }
        }
    }
}

async fn send(sink: &mut SplitSink<WebSocket, Message>, frame: &ServerFrame) -> bool {
    let bytes = match encode_server_frame(frame) {
        Ok(bytes) => bytes,
        Err(error) => {
            warn!(%error, "a frame is too large to be sent; closing the connection");
            return false;
        }
    };
    for fragment in fragments(&bytes) {
        if sink.send(Message::Binary(fragment.into())).await.is_err() {
            return false;
        }
    }
    true
}
