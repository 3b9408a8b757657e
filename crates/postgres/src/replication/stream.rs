//! The task that owns the replication socket: it assembles transactions, hands them on, and tells
//! Postgres what is durable. It never waits for its consumer without going on reporting.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf as _, Bytes};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    connection::{Connection, ReplicationError},
    pgoutput::{self, Cell, DecodeError, Message, Relation},
};
use crate::limits;

/// What comes out of the log.
#[derive(Debug)]
pub(crate) enum Streamed {
    Transaction(LoggedTransaction),
    /// Everything up to here has come.
    Idle(u64),
}

/// A committed transaction as the log tells it.
#[derive(Debug, Default)]
pub(crate) struct LoggedTransaction {
    /// Its number, without the upper half.
    pub(crate) xid: u32,
    /// Where its commit ends.
    pub(crate) end: u64,
    pub(crate) images: Vec<RowImage>,
    /// Whether it was too large to be kept; then `images` is empty.
    pub(crate) oversize: bool,
}

/// What it did to one row or table.
#[derive(Debug)]
pub(crate) enum RowImage {
    /// The row is `new` now; `old` is its key before, if that has changed.
    Put {
        relation: Arc<Relation>,
        old: Option<Vec<Cell>>,
        new: Vec<Cell>,
    },
    /// The row with this key is gone.
    Gone {
        relation: Arc<Relation>,
        old: Vec<Cell>,
    },
    /// Every row of the table is gone.
    Emptied { relation: u32 },
}

/// Starts the task. It ends when the receiver or `durable`'s sender is dropped, or when the log
/// breaks off; the receiver then runs dry.
pub(crate) fn start(
    connection: Connection,
    durable: watch::Receiver<u64>,
    feedback_period: Duration,
) -> mpsc::Receiver<Streamed> {
    let (out, streamed) = mpsc::channel(limits::TRANSACTIONS_AHEAD);
    let reader = Reader {
        connection,
        durable,
        assembler: Assembler::new(limits::TRANSACTION_BYTES_MAX),
        received: 0,
        reported: Instant::now(),
    };
    tokio::spawn(async move {
        if let Err(error) = reader.run(out, feedback_period).await {
            tracing::warn!(%error, "the log of Postgres has broken off");
        }
    });
    streamed
}

struct Reader {
    connection: Connection,
    durable: watch::Receiver<u64>,
    assembler: Assembler,
    received: u64,
    reported: Instant,
}

impl Reader {
    async fn run(
        mut self,
        out: mpsc::Sender<Streamed>,
        feedback_period: Duration,
    ) -> Result<(), ReplicationError> {
        let mut tick = interval(feedback_period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        // Postgres sends a keepalive within half of the time that three periods make up.
        let silence_max = feedback_period
            .saturating_mul(6)
            .max(Duration::from_secs(10));
        let mut waiting: Option<Streamed> = None;
        loop {
            tokio::select! {
                permit = out.reserve(), if waiting.is_some() => match (permit, waiting.take()) {
                    (Ok(permit), Some(streamed)) => {
                        permit.send(streamed);
                        // It was not silence that kept the socket unread.
                        heard = Instant::now();
                    }
                    _ => return self.report().await,
                },
                data = self.connection.copy_data(), if waiting.is_none() => {
                    heard = Instant::now();
                    let Some(data) = data? else { return Ok(()) };
                    waiting = self.take(data).await?;
                }
                changed = self.durable.changed() => match changed {
                    Ok(()) if self.reported.elapsed() < REPORT_PERIOD_MIN => {}
                    Ok(()) => self.report().await?,
                    Err(_) => return self.report().await,
                },
                _ = tick.tick() => {
                    if waiting.is_none() && heard.elapsed() > silence_max {
                        let silent = std::io::Error::from(std::io::ErrorKind::TimedOut);
                        return Err(silent.into());
                    }
                    self.report().await?;
                }
            }
        }
    }

    /// Takes one piece of copy data in.
    async fn take(&mut self, mut data: Bytes) -> Result<Option<Streamed>, ReplicationError> {
        if data.remaining() < KEEPALIVE_BYTES {
            return Err(DecodeError::Truncated.into());
        }
        match data.get_u8() {
            b'w' if data.remaining() >= XLOG_HEADER_BYTES => {
                data.advance(XLOG_HEADER_BYTES);
                let size = data.len();
                let transaction = self.assembler.feed(pgoutput::decode(data)?, size);
                if let Some(transaction) = &transaction {
                    self.received = self.received.max(transaction.end);
                }
                Ok(transaction.map(Streamed::Transaction))
            }
            b'k' => {
                let end = data.get_u64();
                data.advance(8);
                let reply_wanted = data.get_u8() != 0;
                let news = !self.assembler.is_in_transaction() && end > self.received;
                if news {
                    self.received = end;
                }
                if reply_wanted {
                    self.report().await?;
                }
                Ok(news.then_some(Streamed::Idle(end)))
            }
            other => Err(DecodeError::UnknownKind(other).into()),
        }
    }

    /// Tells Postgres what has been received and what is durable.
    async fn report(&mut self) -> Result<(), ReplicationError> {
        self.reported = Instant::now();
        let durable = *self.durable.borrow_and_update();
        let mut message = Vec::with_capacity(34);
        message.push(b'r');
        for position in [self.received.max(durable), durable, durable] {
            message.extend_from_slice(&position.to_be_bytes());
        }
        message.extend_from_slice(&postgres_micros().to_be_bytes());
        message.push(0);
        self.connection.send_copy_data(&message).await
    }
}

/// Shorter than this, reports would cost more than they tell.
const REPORT_PERIOD_MIN: Duration = Duration::from_secs(1);

/// Two positions and a time come before the message of the log.
const XLOG_HEADER_BYTES: usize = 24;

/// A tag, a position, a time and a flag.
const KEEPALIVE_BYTES: usize = 18;

/// The time as Postgres counts it, from the year 2000; it shows in `pg_stat_replication` only.
fn postgres_micros() -> i64 {
    const YEAR_2000: Duration = Duration::from_secs(946_684_800);
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(YEAR_2000);
    i64::try_from(since_1970.saturating_sub(YEAR_2000).as_micros()).unwrap_or(0)
}

/// Puts the messages of one transaction together.
#[derive(Debug)]
struct Assembler {
    relations: BTreeMap<u32, Arc<Relation>>,
    open: Option<LoggedTransaction>,
    bytes: usize,
    bytes_max: usize,
}

impl Assembler {
    const fn new(bytes_max: usize) -> Self {
        Self {
            relations: BTreeMap::new(),
            open: None,
            bytes: 0,
            bytes_max,
        }
    }

    const fn is_in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Takes a message of `size` bytes in; the transaction, if that ends it.
    fn feed(&mut self, message: Message, size: usize) -> Option<LoggedTransaction> {
        match message {
            Message::Begin { xid } => {
                self.bytes = 0;
                self.open = Some(LoggedTransaction {
                    xid,
                    ..LoggedTransaction::default()
                });
            }
            Message::Commit { end } => {
                return self
                    .open
                    .take()
                    .map(|open| LoggedTransaction { end, ..open });
            }
            Message::Relation(relation) => {
                self.relations.insert(relation.oid, Arc::new(relation));
            }
            Message::Insert { relation, new } => {
                let put = |relation| RowImage::Put {
                    relation,
                    old: None,
                    new,
                };
                self.push(relation, size, put);
            }
            Message::Update { relation, old, new } => {
                let put = |relation| RowImage::Put { relation, old, new };
                self.push(relation, size, put);
            }
            Message::Delete { relation, old } => {
                self.push(relation, size, |relation| RowImage::Gone { relation, old });
            }
            Message::Truncate { relations } => {
                for relation in relations {
                    self.push(relation, size, |emptied| RowImage::Emptied {
                        relation: emptied.oid,
                    });
                }
            }
            Message::Other => {}
        }
        None
    }

    fn push(&mut self, oid: u32, size: usize, image: impl FnOnce(Arc<Relation>) -> RowImage) {
        let (Some(open), Some(relation)) = (&mut self.open, self.relations.get(&oid)) else {
            return;
        };
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.bytes_max {
            open.oversize = true;
            open.images = Vec::new();
        } else {
            open.images.push(image(Arc::clone(relation)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation() -> Message {
        let (namespace, name) = ("public".to_owned(), "t".to_owned());
        Message::Relation(Relation {
            oid: 7,
            namespace,
            name,
            columns: vec![],
        })
    }

    fn insert() -> Message {
        Message::Insert {
            relation: 7,
            new: vec![Cell::Null],
        }
    }

    #[test]
    fn what_lies_between_begin_and_commit_is_one_transaction() {
        let mut assembler = Assembler::new(100);
        for message in [
            relation(),
            Message::Begin { xid: 5 },
            insert(),
            Message::Other,
            insert(),
        ] {
            assert!(assembler.feed(message, 10).is_none());
        }
        assert!(assembler.is_in_transaction());
        let transaction = assembler.feed(Message::Commit { end: 9 }, 10).unwrap();
        assert_eq!((transaction.xid, transaction.end), (5, 9));
        assert_eq!((transaction.images.len(), transaction.oversize), (2, false));
        assert!(!assembler.is_in_transaction());
        assert!(assembler.feed(Message::Commit { end: 10 }, 10).is_none());
    }

    #[test]
    fn a_transaction_beyond_the_bound_keeps_nothing_and_the_next_is_whole_again() {
        let mut assembler = Assembler::new(25);
        for oversize in [true, false] {
            let inserts = if oversize { 5 } else { 2 };
            let _ = assembler.feed(relation(), 10);
            let _ = assembler.feed(Message::Begin { xid: 5 }, 10);
            for _ in 0..inserts {
                let _ = assembler.feed(insert(), 10);
            }
            let transaction = assembler.feed(Message::Commit { end: 9 }, 10).unwrap();
            assert_eq!(transaction.oversize, oversize);
            assert_eq!(transaction.images.len(), if oversize { 0 } else { 2 });
        }
    }
}
