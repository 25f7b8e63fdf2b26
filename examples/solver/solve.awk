# Which parcels go into a van: the most value for its capacity. A stand-in for a solver that you have already.
#
# stdin: the capacity and `quick` or `exact`, then a line for each parcel, with weight and value.
# stdout: the numbers of the parcels that are chosen, counted from 0. Exit code 65: the input makes no sense.

BEGIN { count = 0 }

NR == 1 {
    room = $1
    exact = $2 == "exact"
    next
}

NF != 2 || $1 + 0 <= 0 || $2 + 0 < 0 {
    print "parcel " count ": its weight must be above 0, and its value not below" > "/dev/stderr"
    refused = 1
    exit 65
}

{
    weight[count] = $1
    value[count] = $2
    count++
}

END {
    if (refused)
        exit 65
    print "choosing from " count " parcels" > "/dev/stderr"
    if (exact) {
        best = -1
        try_all(0, room, 0)
        for (i = 0; i < count; i++)
            taken[i] = best_taken[i]
    } else {
        take_greedily()
        exchange()
    }
    for (i = 0; i < count; i++)
        if (taken[i])
            printf "%d ", i
    print ""
}

# Take what has the most value for its weight, as long as it fits.
function take_greedily(    i, j, next_one) {
    for (i = 0; i < count; i++) {
        for (j = i; j > 0 && better(i, order[j - 1]); j--)
            order[j] = order[j - 1]
        order[j] = i
    }
    for (i = 0; i < count; i++) {
        next_one = order[i]
        if (weight[next_one] <= room) {
            taken[next_one] = 1
            room -= weight[next_one]
        }
    }
}

function better(a, b) {
    return value[a] * weight[b] > value[b] * weight[a]
}

# Put one more in, or exchange one for another, whichever gains most, as long as something does.
function exchange(    out, into, most, out_best, into_best, gain) {
    do {
        most = 0
        for (out = -1; out < count; out++) {
            if (out >= 0 && !taken[out])
                continue
            for (into = 0; into < count; into++) {
                gain = value[into] - (out < 0 ? 0 : value[out])
                if (!taken[into] && gain > most && weight[into] - (out < 0 ? 0 : weight[out]) <= room) {
                    most = gain
                    out_best = out
                    into_best = into
                }
            }
        }
        if (most > 0) {
            if (out_best >= 0) {
                taken[out_best] = 0
                room += weight[out_best]
            }
            taken[into_best] = 1
            room -= weight[into_best]
        }
    } while (most > 0)
}

# Look at every choice there is: with 60 parcels that takes longer than anybody will wait.
function try_all(i, left, total,    j) {
    if (i == count) {
        if (total > best) {
            best = total
            for (j = 0; j < count; j++)
                best_taken[j] = chosen[j]
        }
        return
    }
    if (weight[i] <= left) {
        chosen[i] = 1
        try_all(i + 1, left - weight[i], total + value[i])
    }
    chosen[i] = 0
    try_all(i + 1, left, total)
}
