//! One WebSocket connection: fragments to frames and back, pings, deadlines. It knows nothing of
//! what the frames mean.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anabranch_protocol::{
    ClientFrame, ServerFrame,
    codec::{Assembler, CodecError, decode_client_frame, encode_server_frame, fragments},
    limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX},
};
use axum::extract::ws::{Message, WebSocket};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, warn};

use crate::{
    engine::{Event, Outgoing},
    hub::SessionId,
    limits::{
        FAREWELL_MAX_MS, HELLO_TIMEOUT_MS, PING_INTERVAL_MS, WRITE_TIMEOUT_MS, WRITER_QUEUE_FRAMES,
    },
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
    let mut read = pin!(read);
    tokio::select! {
        () = &mut read => {}
        // The last word arrives only if whatever the replica still sends is read.
        () = write => {
            let _ = timeout(Duration::from_millis(FAREWELL_MAX_MS), read).await;
        }
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
    let mut deadline = Instant::now() + Duration::from_millis(HELLO_TIMEOUT_MS);
    let mut heard = false;
    loop {
        let message = match timeout_at(deadline, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return debug!(%error, "a connection failed"),
            Ok(None) => return,
            Err(_) => return debug!("a connection fell silent"),
        };
        if welcomed.load(Ordering::Relaxed) {
            assembler.set_limit(FRAME_BYTES_MAX);
        }
        let event = match message {
            Message::Binary(bytes) => match take(&mut assembler, &bytes) {
                Ok(None) => None,
                Ok(Some(frame)) => {
                    heard = true;
                    Some(Event::Received { id, frame })
                }
                Err(error) => {
                    let reason = error.to_string();
                    Some(Event::Garbage { id, reason })
                }
            },
            Message::Text(_) => {
                let reason = "a text message, where frames are binary".to_owned();
                Some(Event::Garbage { id, reason })
            }
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => None,
        };
        // Until it has said hello, a connection gains no time by what it sends.
        if heard {
            deadline = Instant::now() + Duration::from_millis(PING_INTERVAL_MS * 2);
        }
        let broken = matches!(event, Some(Event::Garbage { .. }));
        if let Some(event) = event
            && events.send(event).await.is_err()
        {
            return;
        }
        if broken {
            return ignore_the_rest(stream).await;
        }
    }
}

fn take(assembler: &mut Assembler, bytes: &[u8]) -> Result<Option<ClientFrame>, CodecError> {
    let frame = assembler.push(bytes)?;
    frame.map(|frame| decode_client_frame(&frame)).transpose()
}

/// Leaves the last word to the writer, which closes the connection once it has told why.
async fn ignore_the_rest(mut stream: SplitStream<WebSocket>) {
    let rest = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = timeout(Duration::from_millis(HELLO_TIMEOUT_MS), rest).await;
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
                if !say(&mut sink, Message::Ping(Vec::new().into())).await {
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
                let _ = timeout(Duration::from_millis(FAREWELL_MAX_MS), sink.close()).await;
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
        if !say(sink, Message::Binary(fragment.into())).await {
            return false;
        }
    }
    true
}

/// Sends a message, unless the replica takes none.
async fn say(sink: &mut SplitSink<WebSocket, Message>, message: Message) -> bool {
    let patience = Duration::from_millis(WRITE_TIMEOUT_MS);
    matches!(timeout(patience, sink.send(message)).await, Ok(Ok(())))
}
