-- The rules of ledger.py, applied where the ledgers are: one round trip for all recipients of a mail.
-- KEYS: a hash for each mailbox: peak, many_until, warned, and "h:ID" -> "octets expires".
-- ARGV: now, id, expires, write, together, most reservations, hysteresis, longest reservation, number of thresholds,
--       the thresholds;
--       for each mailbox: used, size, limit. Times in milliseconds.
-- Returns for each mailbox: fits, total, threshold to warn of.
local now, id, expires = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local write, together = ARGV[4] == '1', ARGV[5] == '1'
local most, hysteresis, longest, thresholds = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local KEEP = 31 * 86400000 -- how long it is remembered that a warning was sent

local function counts(ends) return ends > now and ends <= now + longest end

local function number(text) return tonumber(text or '0') or 0 end

local boxes, all_fit = {}, true
for i = 1, #KEYS do
  local at = 9 + thresholds + 3 * (i - 1)
  local box = {used = tonumber(ARGV[at + 1]), size = tonumber(ARGV[at + 2]), limit = tonumber(ARGV[at + 3]),
               live = {}, gone = {}, sum = 0, others = 0}
  local raw = redis.call('HGETALL', KEYS[i])
  local fields = {}
  for j = 1, #raw, 2 do
    local name, value = raw[j], raw[j + 1]
    if string.sub(name, 1, 2) == 'h:' then
      local octets, ends = string.match(value, '^(%d+) (%d+)$')
      octets, ends = number(octets), number(ends)
      if counts(ends) then
        box.live[#box.live + 1] = {id = string.sub(name, 3), octets = octets, expires = ends}
        if string.sub(name, 3) ~= id then box.sum = box.sum + octets; box.others = box.others + 1 end
      else
        box.gone[#box.gone + 1] = name
      end
    else
      fields[name] = number(value)
    end
  end
  box.peak, box.many_until, box.warned = fields.peak or 0, fields.many_until or 0, fields.warned or 0
  local many = counts(box.many_until)
  if box.others == 0 and not many then
    box.total = box.used
  else
    box.total = math.max(box.used, box.peak)
    if not many then box.total = math.min(box.used + box.sum, box.total) end
  end
  box.fits = box.limit == 0 or box.total + math.max(box.size, 1) <= box.limit
  all_fit = all_fit and box.fits
  boxes[i] = box
end

local answer = {}
local function text(value) return string.format('%.0f', value) end
for i, box in ipairs(boxes) do
  local warn = 0
  if write and box.fits and (all_fit or not together) then
    local key, idle = KEYS[i], #box.live == 0 and not counts(box.many_until)
    local promised = box.total + box.size
    local peak = idle and promised or math.max(box.peak, promised)
    local many_until = counts(box.many_until) and box.many_until or 0
    local kept = {}
    for _, held in ipairs(box.live) do if held.id ~= id then kept[#kept + 1] = held end end
    kept[#kept + 1] = {id = id, octets = box.size, expires = expires}
    table.sort(kept, function(a, b)
      if a.expires ~= b.expires then return a.expires < b.expires end
      return a.id < b.id
    end)
    for _, name in ipairs(box.gone) do redis.call('HDEL', key, name) end
    redis.call('HSET', key, 'h:' .. id, text(box.size) .. ' ' .. text(expires))
    local first = 1
    while #kept - first + 1 > most do
      many_until = math.max(many_until, kept[first].expires)
      redis.call('HDEL', key, 'h:' .. kept[first].id)
      first = first + 1
    end
    local warned = 0
    if box.limit > 0 then
      local reached, armed = 0, 0
      for t = 1, thresholds do
        local each = tonumber(ARGV[9 + t])
        if promised * 100 >= box.limit * each then reached = math.max(reached, each) end
        if each <= box.warned and promised * 100 >= box.limit * (each - hysteresis) then armed = math.max(armed, each) end
      end
      if reached > box.warned then warn, warned = reached, reached else warned = armed end
    end
    redis.call('HSET', key, 'peak', text(peak), 'many_until', text(many_until), 'warned', text(warned))
    redis.call('PEXPIRE', key, warned > 0 and KEEP or (math.max(expires, many_until) - now + 60000))
  end
  answer[#answer + 1] = box.fits and 1 or 0
  answer[#answer + 1] = text(box.total)
  answer[#answer + 1] = warn
end
return answer
