//! Dates, times and timestamps, read from and written as the text Postgres uses (ISO, UTC). No
//! time zone database and no clock: zones are offsets, and words such as `now` are not known.

use crate::schema::ColumnType;

/// A point in time, or a time of day on day 0. The derived order is Postgres's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    /// Days since 1970-01-01 in the proleptic Gregorian calendar.
    day: i64,
    /// Microseconds into the day.
    micros: i64,
}

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// Where Postgres's calendar begins: 4714-11-24 BC.
const DAY_MIN: i64 = -2_440_588;
/// The last year of Postgres's `date`.
const DATE_YEAR_MAX: i64 = 5_874_897;
/// The last year of Postgres's timestamps.
const TIMESTAMP_YEAR_MAX: i64 = 294_276;

impl Moment {
    const MINUS_INFINITY: Self = Self {
        day: i64::MIN,
        micros: 0,
    };
    const INFINITY: Self = Self {
        day: i64::MAX,
        micros: 0,
    };

    /// Reads a value of one of the four types; `None` if it is none of that type.
    pub(crate) fn read(kind: ColumnType, text: &str) -> Option<Self> {
        if kind == ColumnType::Time {
            return Some(Self {
                day: 0,
                micros: read_time(text)?,
            });
        }
        match text {
            "infinity" => return Some(Self::INFINITY),
            "-infinity" => return Some(Self::MINUS_INFINITY),
            _ => {}
        }
        let (text, before_christ) = match text.strip_suffix(" BC") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        match kind {
            ColumnType::Date => {
                let day = read_date(text, before_christ, DATE_YEAR_MAX)?;
                Some(Self { day, micros: 0 })
            }
            ColumnType::Timestamp | ColumnType::TimestampTz => {
                read_timestamp(text, before_christ, kind == ColumnType::TimestampTz)
            }
            _ => None,
        }
    }

    /// The text Postgres writes for it.
    pub(crate) fn write(self, kind: ColumnType) -> String {
        match self {
            Self::INFINITY => return "infinity".to_owned(),
            Self::MINUS_INFINITY => return "-infinity".to_owned(),
            _ => {}
        }
        let time = write_time(self.micros);
        if kind == ColumnType::Time {
            return time;
        }
        let (year, month, day) = civil(self.day);
        let (year, era) = if year > 0 {
            (year, "")
        } else {
            (1 - year, " BC")
        };
        match kind {
            ColumnType::Timestamp => format!("{year:04}-{month:02}-{day:02} {time}{era}"),
            ColumnType::TimestampTz => format!("{year:04}-{month:02}-{day:02} {time}+00{era}"),
            _ => format!("{year:04}-{month:02}-{day:02}{era}"),
        }
    }
}

fn read_timestamp(text: &str, before_christ: bool, zoned: bool) -> Option<Moment> {
    let (date, rest) = text.split_once([' ', 'T']).unwrap_or((text, "00:00:00"));
    let (time, offset) = match rest.find(['Z', '+', '-']) {
        Some(_) if !zoned => return None,
        Some(at) => (rest.get(..at)?, read_offset(rest.get(at..)?)?),
        None => (rest, 0),
    };
    let micros = read_time(time)? - offset;
    let day = read_date(date, before_christ, TIMESTAMP_YEAR_MAX)?;
    Some(Moment {
        day: day + micros.div_euclid(MICROS_PER_DAY),
        micros: micros.rem_euclid(MICROS_PER_DAY),
    })
}

fn read_date(text: &str, before_christ: bool, year_max: i64) -> Option<i64> {
    let mut parts = text.split('-');
    let year = digits(parts.next()?, 4, 7)?;
    let month = digits(parts.next()?, 2, 2)?;
    let day = digits(parts.next()?, 2, 2)?;
    if parts.next().is_some() || year == 0 || year > year_max {
        return None;
    }
    let year = if before_christ { 1 - year } else { year };
    let date = day_of(year, month, day);
    ((1..=12).contains(&month) && date >= DAY_MIN && civil(date) == (year, month, day))
        .then_some(date)
}

/// Microseconds into the day; `24:00:00` is the end of it.
fn read_time(text: &str) -> Option<i64> {
    let (clock, fraction) = text
        .split_once('.')
        .map_or((text, None), |(c, f)| (c, Some(f)));
    let mut parts = clock.split(':');
    let hour = digits(parts.next()?, 2, 2)?;
    let minute = digits(parts.next()?, 2, 2)?;
    let second = parts.next().map_or(Some(0), |part| digits(part, 2, 2))?;
    let micros = match fraction {
        None => 0,
        Some(fraction) => {
            let scale = u32::try_from(fraction.len()).ok()?;
            digits(fraction, 1, 6)? * 10_i64.pow(6_u32.checked_sub(scale)?)
        }
    };
    let total = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros;
    (parts.next().is_none() && minute < 60 && second < 60 && total <= MICROS_PER_DAY)
        .then_some(total)
}

/// Microseconds east of Greenwich: `Z`, `+02`, `+02:00`, `+0200`, `-07:52:58`.
fn read_offset(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let mut parts = match rest.len() {
        4 => rest
            .split_at_checked(2)
            .map(|(hours, minutes)| vec![hours, minutes])?,
        _ => rest.split(':').collect(),
    }
    .into_iter();
    let hours = digits(parts.next()?, 2, 2)?;
    let minutes = parts.next().map_or(Some(0), |part| digits(part, 2, 2))?;
    let seconds = parts.next().map_or(Some(0), |part| digits(part, 2, 2))?;
    (parts.next().is_none() && hours < 16 && minutes < 60 && seconds < 60)
        .then_some(sign * ((hours * 60 + minutes) * 60 + seconds) * MICROS_PER_SECOND)
}

fn digits(text: &str, length_min: usize, length_max: usize) -> Option<i64> {
    let fits = (length_min..=length_max).contains(&text.len());
    (fits && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn write_time(micros: i64) -> String {
    let (seconds, fraction) = (micros / MICROS_PER_SECOND, micros % MICROS_PER_SECOND);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction == 0 {
        return format!("{hour:02}:{minute:02}:{second:02}");
    }
    let fraction = format!("{fraction:06}");
    format!(
        "{hour:02}:{minute:02}:{second:02}.{}",
        fraction.trim_end_matches('0')
    )
}

// The two conversions are Howard Hinnant's ("chrono-compatible low-level date algorithms"): years
// begin in March, so that the leap day is the last, and repeat every 400 years.
const DAYS_PER_ERA: i64 = 146_097;
const DAYS_TO_1970: i64 = 719_468;

fn day_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - DAYS_TO_1970
}

fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + DAYS_TO_1970;
    let (era, day_of_era) = (day.div_euclid(DAYS_PER_ERA), day.rem_euclid(DAYS_PER_ERA));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ColumnType::{Date, Time, Timestamp, TimestampTz};

    #[test]
    fn what_postgres_writes_is_read_and_written_back() {
        for (kind, text) in [
            (Date, "1970-01-01"),
            (Date, "2024-02-29"),
            (Date, "0001-01-01"),
            (Date, "0044-03-15 BC"),
            (Date, "4714-11-24 BC"),
            (Date, "5874897-12-31"),
            (Date, "infinity"),
            (Time, "00:00:00"),
            (Time, "23:59:59.999999"),
            (Time, "24:00:00"),
            (Timestamp, "2026-01-02 10:04:05.1"),
            (Timestamp, "294276-12-31 23:59:59.999999"),
            (Timestamp, "-infinity"),
            (TimestampTz, "2026-01-02 10:04:05.123456+00"),
            (TimestampTz, "0001-12-31 23:00:00+00 BC"),
        ] {
            let moment = Moment::read(kind, text);
            assert_eq!(
                moment.map(|moment| moment.write(kind)).as_deref(),
                Some(text)
            );
        }
    }

    #[test]
    fn what_people_write_becomes_canonical() {
        for (kind, text, canonical) in [
            (Time, "10:04", "10:04:00"),
            (Timestamp, "2026-01-02", "2026-01-02 00:00:00"),
            (Timestamp, "2026-01-02T24:00:00", "2026-01-03 00:00:00"),
            (
                TimestampTz,
                "2026-01-01 00:30:00+01:00",
                "2025-12-31 23:30:00+00",
            ),
            (
                TimestampTz,
                "2026-01-02T10:04:05.500Z",
                "2026-01-02 10:04:05.5+00",
            ),
            (
                TimestampTz,
                "2026-01-02 10:04:05-0330",
                "2026-01-02 13:34:05+00",
            ),
            (
                TimestampTz,
                "1883-11-18 12:00:00-07:52:58",
                "1883-11-18 19:52:58+00",
            ),
        ] {
            let moment = Moment::read(kind, text);
            assert_eq!(
                moment.map(|moment| moment.write(kind)).as_deref(),
                Some(canonical)
            );
        }
    }

    #[test]
    fn moments_order_in_time() {
        let ascending = [
            "-infinity",
            "0044-03-15 BC",
            "0044-03-16 BC",
            "0043-01-01 BC",
            "0001-01-01",
            "1969-12-31",
            "1970-01-01",
            "9999-12-31",
            "10000-01-01",
            "infinity",
        ];
        let moments = ascending.map(|text| Moment::read(Date, text).unwrap());
        assert!(moments.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for (kind, text) in [
            (Date, "2026-02-29"),
            (Date, "2026-13-01"),
            (Date, "2026-00-10"),
            (Date, "2026-01-00"),
            (Date, "0000-01-01"),
            (Date, "4714-11-23 BC"),
            (Date, "5874898-01-01"),
            (Date, "26-01-01"),
            (Date, "01.02.2026"),
            (Date, "now"),
            (Date, "2026-01-01 10:00:00"),
            (Time, "25:00:00"),
            (Time, "24:00:01"),
            (Time, "10:60:00"),
            (Time, "10:00:60"),
            (Time, "10:00:00.1234567"),
            (Time, "10:00:00."),
            (Time, "infinity"),
            (Timestamp, "2026-01-01 10:00:00+00"),
            (Timestamp, "294277-01-01 00:00:00"),
            (TimestampTz, "2026-01-01 10:00:00+16"),
            (TimestampTz, "2026-01-01 10:00:00 CET"),
        ] {
            assert_eq!(Moment::read(kind, text), None, "{text}");
        }
    }
}
