//! A replication connection: login, simple queries, and then nothing but copy data both ways.

use std::{future::Future, io, path::PathBuf, pin::Pin};

use anabranch_store::StoreError;
use bytes::{Buf as _, Bytes, BytesMut};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::{
        backend::{ErrorResponseBody, Header, Message},
        frontend,
    },
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use tokio_postgres::{Config, config::Host};

use crate::{config::TEXT_SETTINGS, limits};

/// Why the replication connection failed.
#[derive(Debug, Error)]
pub(crate) enum ReplicationError {
    #[error("the connection to Postgres broke: {0}")]
    Io(#[from] io::Error),
    #[error("{message} (SQLSTATE {code})")]
    Server { code: String, message: String },
    #[error("Postgres asks for a password, and the URL has none")]
    PasswordMissing,
    #[error("Postgres asks for the login method {0}, which is not supported; use scram-sha-256")]
    LoginMethod(&'static str),
    #[error("unexpected answer from Postgres: {0}")]
    Unexpected(&'static str),
    #[error(transparent)]
    Decode(#[from] super::pgoutput::DecodeError),
}

impl ReplicationError {
    /// Whether the server said this SQLSTATE.
    pub(crate) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Server { code, .. } if code == wanted)
    }
}

impl From<ReplicationError> for StoreError {
    fn from(error: ReplicationError) -> Self {
        let text = error.to_string();
        match error {
            ReplicationError::Server { code, .. } if code.starts_with("28") => {
                Self::Misconfigured(format!(
                    "Postgres refuses the replication login: {text}; the role needs REPLICATION, \
                     and pg_hba.conf a line for it"
                ))
            }
            ReplicationError::PasswordMissing | ReplicationError::LoginMethod(_) => {
                Self::Misconfigured(text)
            }
            _ => Self::Unavailable(text),
        }
    }
}

/// What a socket to Postgres can do.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// A connection in replication mode.
pub(crate) struct Connection {
    socket: Box<dyn Socket>,
    input: BytesMut,
}

/// Connects to the first host that answers and logs in.
pub(crate) async fn connect(config: &Config) -> Result<Connection, ReplicationError> {
    let mut last = ReplicationError::Unexpected("the URL names no host");
    for (index, host) in config.get_hosts().iter().enumerate() {
        let ports = config.get_ports();
        let port = ports
            .get(index)
            .or_else(|| ports.first())
            .copied()
            .unwrap_or(5432);
        match open(host, port).await {
            Ok(socket) => {
                let mut connection = Connection {
                    socket,
                    input: BytesMut::new(),
                };
                connection.log_in(config).await?;
                return Ok(connection);
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

async fn open(host: &Host, port: u16) -> io::Result<Box<dyn Socket>> {
    type Opening<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Socket>>> + Send + 'a>>;
    let opening: Opening<'_> = match host {
        Host::Tcp(name) => Box::pin(async move {
            let stream = TcpStream::connect((name.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Socket>)
        }),
        Host::Unix(directory) => {
            let path: PathBuf = directory.join(format!(".s.PGSQL.{port}"));
            Box::pin(
                async move { Ok(Box::new(UnixStream::connect(path).await?) as Box<dyn Socket>) },
            )
        }
    };
    let timeout = tokio::time::timeout(limits::CONNECT_TIMEOUT, opening).await;
    timeout.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

impl Connection {
    /// Starts a copy in both directions by a command.
    pub(crate) async fn start_copy(&mut self, command: &str) -> Result<(), ReplicationError> {
        self.send(|out| frontend::query(command, out)).await?;
        loop {
            if self.take_copy_both().await? {
                return Ok(());
            }
            match self.message().await? {
                Message::ErrorResponse(body) => return Err(server_error(&body)),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                _ => return Err(ReplicationError::Unexpected("no copy was started")),
            }
        }
    }

    /// The next piece of copy data; `None` if the server has ended the copy. Can be dropped and
    /// called again: nothing that has been read is lost.
    pub(crate) async fn copy_data(&mut self) -> Result<Option<Bytes>, ReplicationError> {
        loop {
            match self.message().await? {
                Message::CopyData(body) => return Ok(Some(body.into_bytes())),
                Message::CopyDone | Message::CommandComplete(_) => return Ok(None),
                Message::ErrorResponse(body) => return Err(server_error(&body)),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                _ => return Err(ReplicationError::Unexpected("a message amid copy data")),
            }
        }
    }

    /// Sends a piece of copy data.
    pub(crate) async fn send_copy_data(&mut self, data: &[u8]) -> Result<(), ReplicationError> {
        self.send(|out| frontend::CopyData::new(data).map(|data| data.write(out)))
            .await
    }

    async fn log_in(&mut self, config: &Config) -> Result<(), ReplicationError> {
        let user = config.get_user().unwrap_or("postgres").to_owned();
        let database = config.get_dbname().unwrap_or(&user).to_owned();
        let mut parameters = vec![
            ("user", user.as_str()),
            ("database", database.as_str()),
            ("replication", "database"),
            ("application_name", "anabranch"),
            ("client_encoding", "UTF8"),
        ];
        parameters.extend(TEXT_SETTINGS);
        self.send(|out| frontend::startup_message(parameters, out))
            .await?;
        loop {
            match self.message().await? {
                Message::AuthenticationOk
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_)
                | Message::ParameterStatus(_) => {}
                Message::AuthenticationCleartextPassword => {
                    let password = password(config)?;
                    self.send(|out| frontend::password_message(password, out))
                        .await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user.as_bytes(), password(config)?, body.salt());
                    self.send(|out| frontend::password_message(hash.as_bytes(), out))
                        .await?;
                }
                Message::AuthenticationSasl(body) => {
                    let mechanisms: Vec<&str> = body.mechanisms().collect()?;
                    if !mechanisms.contains(&SCRAM_SHA_256) {
                        return Err(ReplicationError::LoginMethod("SASL without SCRAM-SHA-256"));
                    }
                    self.scram(password(config)?).await?;
                }
                Message::ErrorResponse(body) => return Err(server_error(&body)),
                Message::ReadyForQuery(_) => return Ok(()),
                _ => return Err(ReplicationError::LoginMethod("Kerberos or SSPI")),
            }
        }
    }

    async fn scram(&mut self, password: &[u8]) -> Result<(), ReplicationError> {
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        let first = scram.message().to_vec();
        self.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, &first, out))
            .await?;
        match self.message().await? {
            Message::AuthenticationSaslContinue(body) => scram.update(body.data())?,
            Message::ErrorResponse(body) => return Err(server_error(&body)),
            _ => return Err(ReplicationError::Unexpected("no SCRAM challenge")),
        }
        let answer = scram.message().to_vec();
        self.send(|out| frontend::sasl_response(&answer, out))
            .await?;
        match self.message().await? {
            Message::AuthenticationSaslFinal(body) => Ok(scram.finish(body.data())?),
            Message::ErrorResponse(body) => Err(server_error(&body)),
            _ => Err(ReplicationError::Unexpected("no end of SCRAM")),
        }
    }

    async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), ReplicationError> {
        let mut out = BytesMut::new();
        write(&mut out)?;
        self.socket.write_all(&out).await?;
        self.socket.flush().await?;
        Ok(())
    }

    async fn message(&mut self) -> Result<Message, ReplicationError> {
        loop {
            if let Some(header) = Header::parse(&self.input)?
                && usize::try_from(header.len()).map_or(true, |len| len > limits::MESSAGE_BYTES_MAX)
            {
                return Err(ReplicationError::Unexpected(
                    "a message of impossible length",
                ));
            }
            if let Some(message) = Message::parse(&mut self.input)? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// Takes the answer that starts a copy in both directions, which `postgres-protocol` does not
    /// know; false if something else comes.
    async fn take_copy_both(&mut self) -> Result<bool, ReplicationError> {
        loop {
            if let Some(header) = Header::parse(&self.input)? {
                let length = usize::try_from(header.len()).unwrap_or(0).saturating_add(1);
                if header.tag() != b'W' {
                    return Ok(false);
                }
                if self.input.len() >= length {
                    self.input.advance(length);
                    return Ok(true);
                }
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), ReplicationError> {
        self.input.reserve(64 * 1024);
        if self.socket.read_buf(&mut self.input).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }
}

fn password(config: &Config) -> Result<&[u8], ReplicationError> {
    config
        .get_password()
        .ok_or(ReplicationError::PasswordMissing)
}

fn server_error(body: &ErrorResponseBody) -> ReplicationError {
    let (mut code, mut message) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Ok(Some(field)) = fields.next() {
        let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = text(),
            b'M' => message = text(),
            _ => {}
        }
    }
    ReplicationError::Server { code, message }
}
