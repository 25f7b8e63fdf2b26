"""RabbitMQ over AMQP 0-9-1: the only package that imports pika.

    fast_frames, loop_adapter, answer_clock, amqp_connection   one connection, on an asyncio loop
    channel                                      awaitable requests
    reconnector                                  a connection that is opened again whenever it ends
    queues, exchanges, topology                  what must exist, what others declared, and all that a stage needs
    upkeep, anchor                               keep queues from being deleted
    arrivals, consumer_channel, epoch, standby, consuming   the consuming role of a Link: an epoch, when one may begin,
                                                 and one after the other
    ordered_channel, sole_consumer               the same for an ordered stage, which consumes alone
    result_route, destinations, sender, publishing   its publishing role: destinations, a channel, one after the other
    parts                                        publishes several results of an ordered stage one by one
    topology_recovery, link                      the Link, and what restores the queues and exchanges that it needs
    exclusive_lock                               a lock that one connection holds
    queue_depth                                  how many messages a queue holds
    confirmed_prefix, outlet                     the Outlet of a source
    shared_connection, placer, taker, admin      the Admin

Everything runs on the asyncio loop of the process that owns it.
"""
