//! Which transactions of replicas have an outcome already: each number is merged once.

use anabranch_crdt::ReplicaId;
use anabranch_protocol::{RejectCode, Seq};
use anabranch_store::{Standing, StoreError, Upload};
use tokio_postgres::Row;

use super::forget;
use crate::{
    catalog::field,
    errors::{Failure, Refusal, store_error},
    pool::{Lease, Work},
};

/// What became of a transaction before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// It was merged.
    Merged,
    /// It was refused.
    Refused(Refusal),
    /// Its number was used for another transaction.
    Otherwise,
}

/// What became of each upload before; `None` where nothing has.
pub(crate) async fn look_up(
    work: &mut Work<'_>,
    uploads: &[Upload],
) -> Result<Vec<Option<Decided>>, Failure> {
    const SQL: &str = "
        select m.hash, m.code, m.reason, u.first <= (
            select max(seq) from anabranch.marks where replica = u.replica::uuid
        ) as passed
        from unnest($1::text[], $2::bigint[], $3::bigint[]) with ordinality
            as u (replica, seq, first, number)
        left join anabranch.marks m on m.replica = u.replica::uuid and m.seq = u.seq
        order by u.number";
    let replicas: Vec<String> = uploads
        .iter()
        .map(|upload| upload.replica.to_string())
        .collect();
    let seqs: Vec<i64> = uploads
        .iter()
        .map(|upload| number(upload.transaction.seq))
        .collect::<Result<_, _>>()?;
    // What was squashed must not take in again what was merged by itself.
    let firsts: Vec<i64> = uploads
        .iter()
        .map(|upload| number(upload.transaction.first()))
        .collect::<Result<_, _>>()?;
    let rows = work.query(SQL, &[&replicas, &seqs, &firsts]).await?;
    let pairs = uploads.iter().zip(&rows);
    Ok(pairs
        .map(|(upload, row)| decided(upload, row))
        .collect::<Result<_, StoreError>>()?)
}

fn decided(upload: &Upload, row: &Row) -> Result<Option<Decided>, StoreError> {
    let Some(hash) = field::<Option<Vec<u8>>>(row, "hash")? else {
        // What the number stood for is forgotten, so whether this is the same content again cannot
        // be told: to call it merged could lose a write.
        let passed: Option<bool> = field(row, "passed")?;
        return Ok(passed.unwrap_or(false).then(|| forgotten(upload)));
    };
    if hash != upload.hash {
        return Ok(Some(Decided::Otherwise));
    }
    let Some(code) = field::<Option<String>>(row, "code")? else {
        return Ok(Some(Decided::Merged));
    };
    let reason: Option<String> = field(row, "reason")?;
    let refusal = Refusal::new(parse_code(&code), reason.unwrap_or_default());
    Ok(Some(Decided::Refused(refusal)))
}

fn forgotten(upload: &Upload) -> Decided {
    let reason = format!(
        "the number {} is used up, and what it stood for is forgotten: the replica's file was \
         copied or restored; write it again",
        upload.transaction.seq.0
    );
    Decided::Refused(Refusal::new(RejectCode::Equivocation, reason))
}

/// Records that `uploads` are merged.
pub(crate) async fn record(work: &mut Work<'_>, uploads: &[&Upload]) -> Result<(), Failure> {
    const SQL: &str = "
        insert into anabranch.marks (replica, seq, hash)
        select u.replica::uuid, u.seq, u.hash
        from unnest($1::text[], $2::bigint[], $3::bytea[]) as u (replica, seq, hash)";
    if uploads.is_empty() {
        return Ok(());
    }
    let replicas: Vec<String> = uploads
        .iter()
        .map(|upload| upload.replica.to_string())
        .collect();
    let seqs: Vec<i64> = uploads
        .iter()
        .map(|upload| number(upload.transaction.seq))
        .collect::<Result<_, _>>()?;
    let hashes: Vec<&[u8]> = uploads
        .iter()
        .map(|upload| upload.hash.as_slice())
        .collect();
    work.execute(SQL, &[&replicas, &seqs, &hashes]).await?;
    Ok(())
}

/// Records that an upload is refused.
pub(crate) async fn record_refusal(
    work: &mut Work<'_>,
    upload: &Upload,
    refusal: &Refusal,
) -> Result<(), Failure> {
    const SQL: &str = "
        insert into anabranch.marks (replica, seq, hash, code, reason)
        values ($1::text::uuid, $2, $3, $4, $5) on conflict do nothing";
    let replica = upload.replica.to_string();
    let seq = number(upload.transaction.seq)?;
    let hash = upload.hash.as_slice();
    work.execute(
        SQL,
        &[
            &replica,
            &seq,
            &hash,
            &code_name(refusal.code),
            &refusal.reason,
        ],
    )
    .await?;
    Ok(())
}

/// Forgets a replica's outcomes before `first_pending`, all but the newest, and tells how it stands.
pub(crate) async fn greet(
    lease: &mut Lease,
    replica: ReplicaId,
    first_pending: Seq,
) -> Result<Standing, StoreError> {
    const SQL: &str = "
        with newest as (select max(seq) as seq from anabranch.marks where replica = $1::text::uuid),
        forgotten as (
            delete from anabranch.marks m using newest
            where m.replica = $1::text::uuid and m.seq < $2 and m.seq < newest.seq
        )
        select coalesce(seq, 0) as seq, horizon from newest, anabranch.meta";
    let first = i64::try_from(first_pending.0).unwrap_or(i64::MAX);
    let rows = lease.query(SQL, &[&replica.to_string(), &first]).await;
    let rows = rows.map_err(|error| store_error(&error))?;
    let (newest, horizon): (i64, i64) = match rows.first() {
        Some(row) => (field(row, "seq")?, field(row, "horizon")?),
        None => (0, 0),
    };
    Ok(Standing {
        merged_through: Seq(newest.unsigned_abs()),
        horizon: forget::reading(horizon)?,
    })
}

fn number(seq: Seq) -> Result<i64, Failure> {
    i64::try_from(seq.0).map_err(|_| {
        let reason = format!("{} is no transaction number: it is too large", seq.0);
        Failure::Refused(Refusal::new(RejectCode::InvalidValue, reason))
    })
}

const CODES: [(RejectCode, &str); 8] = [
    (RejectCode::Constraint, "constraint"),
    (RejectCode::InvalidValue, "invalid_value"),
    (RejectCode::Forbidden, "forbidden"),
    (RejectCode::Stale, "stale"),
    (RejectCode::UnknownSchema, "unknown_schema"),
    (RejectCode::TooLarge, "too_large"),
    (RejectCode::Equivocation, "equivocation"),
    (RejectCode::Store, "store"),
];

fn code_name(code: RejectCode) -> &'static str {
    CODES
        .iter()
        .find(|(known, _)| *known == code)
        .map_or("store", |(_, name)| name)
}

fn parse_code(name: &str) -> RejectCode {
    CODES
        .iter()
        .find(|(_, known)| *known == name)
        .map_or(RejectCode::Store, |(code, _)| *code)
}
