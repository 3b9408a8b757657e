//! Keys for ordered lists: text that sorts bytewise, with room for another key between any two. No
//! list and no table here: a key is the value of an ordinary column.
//!
//! The form is David Greenspan's "Implementing Fractional Indexing" (2020), as the `fractional-indexing`
//! libraries of other languages write it: an integer part whose first letter tells its length, so
//! that appending keeps keys short, and a fraction without trailing zeros.

use thiserror::Error;

use crate::limits::ORDER_KEY_BYTES_MAX;

/// Why there is no key between two others.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OrderError {
    /// It was not made by [`order_between`] or a library that writes the same form.
    #[error("`{0}` is no ordering key; take keys from order_between")]
    NotAKey(String),
    /// The first does not sort before the second.
    #[error("`{after}` does not sort before `{before}`; give neighbours, the lower one first")]
    NotInOrder {
        /// The lower bound.
        after: String,
        /// The upper bound.
        before: String,
    },
    /// Too many insertions into ever the same gap.
    #[error(
        "no key of {ORDER_KEY_BYTES_MAX} bytes fits in between; give the list's rows new keys, in \
         their order"
    )]
    TooLong,
}

/// A key that sorts after `after` and before `before`; `None` is the list's end on that side.
///
/// Two replicas that insert at one place at once should not make the same key, since none would fit
/// between: so `random` picks among some thousands near the middle. Keys of rows are best compared
/// together with the rows' identifiers all the same: `ORDER BY position, id`.
///
/// ```
/// use anabranch_replica::order_between;
///
/// let first = order_between(None, None, 1)?;
/// let last = order_between(Some(&first), None, 2)?;
/// let between = order_between(Some(&first), Some(&last), 3)?;
/// assert!(first < between && between < last);
/// # Ok::<(), anabranch_replica::OrderError>(())
/// ```
pub fn order_between(
    after: Option<&str>,
    before: Option<&str>,
    random: u64,
) -> Result<String, OrderError> {
    let mut low = after.map(Key::parse).transpose()?;
    let mut high = before.map(Key::parse).transpose()?;
    if let (Some(after), Some(before)) = (after, before)
        && after >= before
    {
        let (after, before) = (after.to_owned(), before.to_owned());
        return Err(OrderError::NotInOrder { after, before });
    }
    let mut key = Key::between(low.as_ref(), high.as_ref())?;
    for bit in 0..JITTER_BITS {
        let side = if random >> bit & 1 == 0 {
            &mut high
        } else {
            &mut low
        };
        *side = Some(key);
        key = Key::between(low.as_ref(), high.as_ref())?;
    }
    let text = [key.integer, key.fraction].concat();
    if text.len() > ORDER_KEY_BYTES_MAX {
        return Err(OrderError::TooLong);
    }
    Ok(text.into_iter().map(char::from).collect())
}

/// Halvings by chance after the first: a clash of two insertions at one place is one in 4,096, for
/// two more characters.
const JITTER_BITS: u32 = 12;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Digits of the longest integer part: `A` and `z` announce that many.
const INTEGER_DIGITS_MAX: usize = 26;

/// A key's two parts, as ASCII.
#[derive(Clone, Debug)]
struct Key {
    integer: Vec<u8>,
    fraction: Vec<u8>,
}

impl Key {
    fn parse(text: &str) -> Result<Self, OrderError> {
        let wrong = || OrderError::NotAKey(text.chars().take(64).collect());
        let bytes = text.as_bytes();
        let head = *bytes.first().ok_or_else(wrong)?;
        let length = 1 + digits_announced(head).ok_or_else(wrong)?;
        let (integer, fraction) = bytes.split_at_checked(length).ok_or_else(wrong)?;
        let well_formed = bytes.len() <= ORDER_KEY_BYTES_MAX
            && bytes.iter().all(|byte| digit(*byte).is_some())
            && fraction.last() != Some(&ZERO)
            && (!is_smallest(integer) || !fraction.is_empty());
        well_formed
            .then(|| Self {
                integer: integer.to_vec(),
                fraction: fraction.to_vec(),
            })
            .ok_or_else(wrong)
    }

    /// The shortest key near the middle of two that are in order.
    fn between(after: Option<&Self>, before: Option<&Self>) -> Result<Self, OrderError> {
        let whole = |integer| Self {
            integer,
            fraction: Vec::new(),
        };
        let within = |integer: &[u8], fraction| Self {
            integer: integer.to_vec(),
            fraction,
        };
        Ok(match (after, before) {
            (None, None) => whole(b"a0".to_vec()),
            (None, Some(before)) => {
                let below = decremented(&before.integer).filter(|below| !is_smallest(below));
                if !before.fraction.is_empty() && !is_smallest(&before.integer) {
                    whole(before.integer.clone())
                } else if let Some(below) = below {
                    whole(below)
                } else {
                    let lowest = decremented(&before.integer);
                    match lowest {
                        Some(lowest) => within(&lowest, middle(&[], None)),
                        None => within(&before.integer, middle(&[], Some(&before.fraction))),
                    }
                }
            }
            (Some(after), None) => match incremented(&after.integer) {
                Some(above) => whole(above),
                None => within(&after.integer, middle(&after.fraction, None)),
            },
            (Some(after), Some(before)) if after.integer == before.integer => within(
                &after.integer,
                middle(&after.fraction, Some(&before.fraction)),
            ),
            (Some(after), Some(before)) => {
                let above = incremented(&after.integer).ok_or(OrderError::TooLong)?;
                if above < before.integer || !before.fraction.is_empty() {
                    whole(above)
                } else {
                    within(&after.integer, middle(&after.fraction, None))
                }
            }
        })
    }
}

const ZERO: u8 = b'0';

/// How many digits follow the first letter of an integer part.
fn digits_announced(head: u8) -> Option<usize> {
    match head {
        b'a'..=b'z' => Some(usize::from(head - b'a') + 1),
        b'A'..=b'Z' => Some(usize::from(b'Z' - head) + 1),
        _ => None,
    }
}

/// The smallest integer part, below which there is none: it is no key without a fraction, since
/// nothing would fit before it.
fn is_smallest(integer: &[u8]) -> bool {
    integer.split_first().is_some_and(|(head, digits)| {
        *head == b'A' && digits.len() == INTEGER_DIGITS_MAX && digits.iter().all(|at| *at == ZERO)
    })
}

fn digit(byte: u8) -> Option<usize> {
    DIGITS.binary_search(&byte).ok()
}

fn digit_of(number: usize) -> u8 {
    DIGITS.get(number).copied().unwrap_or(ZERO)
}

/// A fraction between two: `after` without trailing zeros, and `before`, or one if there is none.
fn middle(after: &[u8], before: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut before = before;
    for at in 0.. {
        let low = after.get(at).and_then(|byte| digit(*byte)).unwrap_or(0);
        let upper = before.and_then(|before| before.get(at).copied());
        let high = match before {
            Some(_) => upper.and_then(digit).unwrap_or(0),
            None => DIGITS.len(),
        };
        if high > low + 1 {
            out.push(digit_of(usize::midpoint(low, high + 1)));
            break;
        }
        if high == low + 1 && before.is_some_and(|before| before.len() > at + 1) {
            out.push(digit_of(high));
            break;
        }
        out.push(digit_of(low));
        // Below the upper bound from here on, whatever follows.
        if high > low {
            before = None;
        }
    }
    out
}

/// The next integer part; none after the largest.
fn incremented(integer: &[u8]) -> Option<Vec<u8>> {
    let (head, digits) = integer.split_first()?;
    if let Some(digits) = stepped(digits, digit_of(DIGITS.len() - 1), ZERO, |at| at + 1) {
        return Some([&[*head], &digits[..]].concat());
    }
    match *head {
        b'z' => None,
        b'Z' => Some(b"a0".to_vec()),
        head => Some(filled(head + 1, ZERO)),
    }
}

/// The integer part before; none before the smallest.
fn decremented(integer: &[u8]) -> Option<Vec<u8>> {
    let (head, digits) = integer.split_first()?;
    let largest = digit_of(DIGITS.len() - 1);
    if let Some(digits) = stepped(digits, ZERO, largest, |at| at - 1) {
        return Some([&[*head], &digits[..]].concat());
    }
    match *head {
        b'A' => None,
        b'a' => Some(vec![b'Z', largest]),
        head => Some(filled(head - 1, largest)),
    }
}

/// The integer part with this first letter and all digits alike.
fn filled(head: u8, digit: u8) -> Vec<u8> {
    let length = digits_announced(head).unwrap_or(0);
    std::iter::once(head)
        .chain(std::iter::repeat_n(digit, length))
        .collect()
}

/// Counts one step up or down; `None` where every digit stands `at_end` and would turn over to
/// `start`.
fn stepped(digits: &[u8], at_end: u8, start: u8, step: impl Fn(usize) -> usize) -> Option<Vec<u8>> {
    let mut out = digits.to_vec();
    for place in out.iter_mut().rev() {
        if *place == at_end {
            *place = start;
            continue;
        }
        *place = digit_of(step(digit(*place)?));
        return Some(out);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The middle, without chance.
    fn middle_of(after: Option<&str>, before: Option<&str>) -> String {
        let key = |text: Option<&str>| text.map(|text| Key::parse(text).unwrap());
        let found = Key::between(key(after).as_ref(), key(before).as_ref()).unwrap();
        String::from_utf8([found.integer, found.fraction].concat()).unwrap()
    }

    #[test]
    fn keys_are_those_of_the_other_languages() {
        let cases = [
            (None, None, "a0"),
            (Some("a0"), None, "a1"),
            (Some("a1"), None, "a2"),
            (None, Some("a0"), "Zz"),
            (None, Some("Zz"), "Zy"),
            (Some("a1"), Some("a2"), "a1V"),
            (Some("a0"), Some("a0V"), "a0G"),
            (Some("a0"), Some("a0G"), "a08"),
            (Some("b125"), Some("b129"), "b127"),
            (Some("a0"), Some("a1V"), "a1"),
            (Some("Zz"), Some("a01"), "a0"),
            (None, Some("a0V"), "a0"),
            (None, Some("b999"), "b99"),
            (
                Some("zzzzzzzzzzzzzzzzzzzzzzzzzzy"),
                None,
                "zzzzzzzzzzzzzzzzzzzzzzzzzzz",
            ),
            (
                Some("zzzzzzzzzzzzzzzzzzzzzzzzzzz"),
                None,
                "zzzzzzzzzzzzzzzzzzzzzzzzzzzV",
            ),
        ];
        for (after, before, expected) in cases {
            assert_eq!(middle_of(after, before), expected, "{after:?} {before:?}");
        }
    }

    #[test]
    fn the_smallest_keys_still_have_room_before_them() {
        let lowest = format!("A{}", "0".repeat(26));
        let mut before = format!("A{}1", "0".repeat(25));
        for _ in 0..50 {
            let key = order_between(None, Some(&before), 0).unwrap();
            assert!(lowest < key && key < before, "{key} {before}");
            before = key;
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let smallest = format!("A{}", "0".repeat(26));
        let long = format!("a0{}", "1".repeat(ORDER_KEY_BYTES_MAX));
        for wrong in [
            "", "a", "0", "a00", "a0V0", "a\u{e9}", "b1", "a-", &smallest, &long,
        ] {
            let refused = order_between(Some(wrong), None, 0);
            assert!(matches!(refused, Err(OrderError::NotAKey(_))), "{wrong}");
        }
        let refused = order_between(Some("a1"), Some("a1"), 0);
        assert!(matches!(refused, Err(OrderError::NotInOrder { .. })));
    }
}
