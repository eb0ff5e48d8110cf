-- One attempt of one mail, whole, in one round trip: the rules of decision.py, applied where the records are.
-- KEYS: the policies that concern the mail, the client's network, one record for each recipient.
-- ARGV: now, number of policies, client, sender, successes needed, network's expiry, whether a success counts;
--       the version of each policy that the caller knows; for each record: recipient, wait, expire, penalty,
--       longest wait. All times in milliseconds.
-- Returns {0, position, version, document, ...} when the caller knows old policies (nothing is done then),
-- else {1, result, first, due, ...}.
local now, policies = tonumber(ARGV[1]), tonumber(ARGV[2])
local client, sender = ARGV[3], ARGV[4]
local needed, network_expire, counts = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'
local SLACK = 60000 -- kept a little longer than it counts: hosts' clocks differ

local stale = {0}
for i = 1, policies do
  local version = redis.call('HGET', KEYS[i], 'version') or ''
  if version ~= ARGV[7 + i] then
    stale[#stale + 1] = i - 1
    stale[#stale + 1] = version
    stale[#stale + 1] = redis.call('HGET', KEYS[i], 'document') or ''
  end
end
if #stale > 1 then return stale end

local network_key, first_record = KEYS[policies + 1], policies + 2
local successes = 0
if needed > 0 then
  local known = redis.call('HMGET', network_key, 'successes', 'allowed_since', 'expires')
  if known[1] and now < tonumber(known[3]) then
    successes = tonumber(known[1])
    local since = tonumber(known[2])
    if since > 0 then
      redis.call('HSET', network_key, 'last', now, 'expires', now + network_expire)
      redis.call('PEXPIRE', network_key, network_expire + SLACK)
      local answer = {1}
      for _ = first_record, #KEYS do
        answer[#answer + 1] = 'network'
        answer[#answer + 1] = since
        answer[#answer + 1] = now
      end
      return answer
    end
  end
end

local function attempt(key, recipient, wait, expire, penalty, longest_wait)
  local known = redis.call('HMGET', key, 'state', 'first', 'extra', 'attempts', 'expires')
  local state, first, extra, attempts = known[1], tonumber(known[2]), tonumber(known[3]), tonumber(known[4])
  local result
  if first and first > now then first = now end -- the clock was set back
  if not state or now >= tonumber(known[5]) then
    first, extra, attempts = now, 0, 0
    result = wait == 0 and 'known' or 'first'
  elseif state == 'passed' then
    result = 'known'
  elseif state == 'released' or now >= first + wait + extra then
    result = 'waited'
  else
    extra = math.min(extra + penalty, math.max(extra, longest_wait - wait))
    result = 'early'
  end
  local waits = result == 'first' or result == 'early'
  local due = first + wait + extra
  redis.call('HSET', key, 'state', waits and 'waiting' or 'passed', 'client', client, 'sender', sender,
    'recipient', recipient, 'first', first, 'last', now, 'due', due, 'extra', extra,
    'attempts', math.min(attempts + 1, 1000000000), 'expires', now + expire)
  redis.call('PEXPIRE', key, expire + SLACK)
  return result, first, due
end

local answer, came_back, anybody_waits = {1}, false, false
local at = 7 + policies
for i = first_record, #KEYS do
  local result, first, due = attempt(KEYS[i], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]),
    tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]))
  at = at + 5
  came_back = came_back or result == 'waited'
  anybody_waits = anybody_waits or result == 'first' or result == 'early'
  answer[#answer + 1] = result
  answer[#answer + 1] = first
  answer[#answer + 1] = due
end
if needed > 0 and counts and came_back and not anybody_waits then
  successes = successes + 1
  redis.call('HSET', network_key, 'client', client, 'successes', successes,
    'allowed_since', successes >= needed and now or 0, 'last', now, 'expires', now + network_expire)
  redis.call('PEXPIRE', network_key, network_expire + SLACK)
end
return answer
