-- One mail's claim, whole, in one round trip: the rules of decision.judge, applied where the records are.
-- KEYS: responder, answered senders (hash), when each is forgotten (sorted set), mails (sorted set), counts, the hour
--       of the host, that of the mailbox.
-- ARGV: version that the caller knows, now, silence ('' = a reply is wanted), forwards, counts, sender, mail, interval,
--       daily limit, remembered, hourly limit, memory of senders, memory of mails, memory of counts, mailbox limit.
-- All times in milliseconds. Returns {0, version, document} when the caller knows an old responder (nothing is done
-- then), else {1, silence, forwards, last, day, count} with what was known of the sender before (0 0 0: nothing).
local responder, answered, expiries, mails, counts, host, mailbox = unpack(KEYS)
local now, silence, forwards, counting = tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1', ARGV[5] == '1'
local sender, mail = ARGV[6], ARGV[7]
local interval, daily, remembered, hourly =
  tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local memory, mail_memory, counts_memory = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local mailbox_limit = tonumber(ARGV[15])
local HOUR, DAY = 3600000, 86400000
local PURGED = 8 -- expired entries that a claim removes: more than it adds

local version = redis.call('HGET', responder, 'version') or ''
if version ~= ARGV[1] then return {0, version, redis.call('HGET', responder, 'document') or ''} end

local function whole(number) return string.format('%.0f', number) end

local function forget(set, hash, members)
  if #members == 0 then return end
  redis.call('ZREM', set, unpack(members))
  if hash then redis.call('HDEL', hash, unpack(members)) end
end

local function room(set, hash) -- so that one more fits
  forget(set, hash, redis.call('ZRANGEBYSCORE', set, '-inf', whole(now), 'LIMIT', 0, PURGED))
  local over = redis.call('ZCARD', set) - remembered + 1
  if over > 0 then forget(set, hash, redis.call('ZRANGE', set, 0, math.min(over, 1000) - 1)) end
end

local function keep(key, milliseconds) -- as long as the entry that lasts longest
  if redis.call('PTTL', key) < milliseconds then redis.call('PEXPIRE', key, whole(milliseconds)) end
end

local function is_over(hour) return now >= tonumber(redis.call('HGET', hour, 'start') or '0') + HOUR end

local function has_room(hour, limit)
  return is_over(hour) or tonumber(redis.call('HGET', hour, 'count') or '0') < limit
end

local function add_one(hour)
  if is_over(hour) then redis.call('HSET', hour, 'start', whole(now), 'count', '0') end
  redis.call('HINCRBY', hour, 'count', 1)
  redis.call('PEXPIRE', hour, HOUR * 2)
end

if silence == '' or forwards then
  local known = redis.call('ZSCORE', mails, mail)
  if known and now < tonumber(known) then
    if silence == '' then silence = 'answered' end
    forwards = false
  else
    room(mails)
    redis.call('ZADD', mails, whole(now + mail_memory), mail)
    keep(mails, mail_memory)
  end
end

local last, day, count = 0, 0, 0
if silence == '' then
  local known = redis.call('HGET', answered, sender)
  if known then
    local a, b, c = string.match(known, '^(%d+) (%d+) (%d+)$')
    last, day, count = tonumber(a), tonumber(b), tonumber(c)
  end
  local same_day = known and now < day + DAY
  if known and now < last + interval then
    silence = 'too-soon'
  elseif same_day and count >= daily then
    silence = 'daily-limit'
  elseif not has_room(mailbox, mailbox_limit) then
    silence = 'mailbox-limit'
  elseif not has_room(host, hourly) then
    silence = 'hourly-limit'
  else
    if not known then room(expiries, answered) end
    redis.call('HSET', answered, sender,
      whole(now) .. ' ' .. whole(same_day and day or now) .. ' ' .. whole(same_day and count + 1 or 1))
    redis.call('ZADD', expiries, whole(now + memory), sender)
    keep(answered, memory)
    keep(expiries, memory)
    add_one(mailbox)
    add_one(host)
  end
end

if counting then
  redis.call('HINCRBY', counts, silence == '' and 'replied' or silence, 1)
  if forwards then redis.call('HINCRBY', counts, 'forwarded', 1) end
  redis.call('PEXPIRE', counts, whole(counts_memory))
end
return {1, silence, forwards and 1 or 0, whole(last), whole(day), whole(count)}
