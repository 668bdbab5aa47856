"""The tools that stand for the intents of public data sets: name, subject, and one sentence each.

The data sets name intents ("iot_hue_lightoff"), not tools. What is written here is ours. Two tools of the same subject
could both answer a request, so tools of different data sets are only offered together where their subjects differ.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CLINC_SUBJECTS", "CLINC_TOOLS", "NLU_TOOLS", "SNIPS_TOOLS", "Entry"]


class Entry(NamedTuple):
    """The tool of an intent."""

    name: str
    subject: str
    description: str


def _table(text: str) -> dict[str, Entry]:
    rows = (line.split("|") for line in text.strip().splitlines())
    return {intent.strip(): Entry(*(part.strip() for part in rest)) for intent, *rest in rows}


#: SNIPS (Coucke et al., arXiv 1805.10190).
SNIPS_TOOLS = _table("""
AddToPlaylist        | add_to_playlist        | music      | Add a song or an artist to a playlist.
BookRestaurant       | book_restaurant        | restaurant | Book a table at a restaurant.
GetWeather           | get_weather            | weather    | Get the weather forecast.
PlayMusic            | play_music             | music      | Play music.
RateBook             | rate_book              | rating     | Rate a book.
SearchCreativeWork   | search_creative_work   | media      | Find a book, song, film, game or other work by its title.
SearchScreeningEvent | search_screening_event | cinema     | Find out when and where films are shown.
""")

#: HWU64 (Liu et al., arXiv 1903.05566) and SLURP (Bastianelli et al., arXiv 2011.13205), which share their intents.
#: Their "general" intents are talk that calls for no tool.
NLU_TOOLS = _table("""
alarm_query              | get_alarms           | alarm      | List the alarms that are set.
alarm_remove             | remove_alarm         | alarm      | Remove an alarm.
alarm_set                | set_alarm            | alarm      | Set an alarm.
audio_volume_down        | volume_down          | volume     | Make the sound quieter.
audio_volume_mute        | mute                 | volume     | Turn the sound off.
audio_volume_up          | volume_up            | volume     | Make the sound louder.
calendar_query           | get_events           | calendar   | Look events up in the calendar.
calendar_remove          | remove_event         | calendar   | Remove an event from the calendar.
calendar_set             | add_event            | calendar   | Add an event or a reminder to the calendar.
cooking_recipe           | get_recipe           | cooking    | Find a recipe or say how to cook something.
datetime_convert         | convert_time         | time       | Convert a time to another time zone.
datetime_query           | get_time             | time       | Tell the time or the date.
email_addcontact         | add_contact          | email      | Add an address to the contacts.
email_query              | check_email          | email      | Look for emails that came in.
email_querycontact       | get_contact          | email      | Look a person up in the contacts.
email_sendemail          | send_email           | email      | Write or answer an email.
iot_cleaning             | start_cleaning       | cleaning   | Start the robot vacuum cleaner.
iot_coffee               | make_coffee          | coffee     | Make coffee.
iot_hue_lightchange      | set_light_color      | light      | Change the colour of the lights.
iot_hue_lightdim         | dim_lights           | light      | Make the lights darker.
iot_hue_lightoff         | lights_off           | light      | Turn the lights off.
iot_hue_lighton          | lights_on            | light      | Turn the lights on.
iot_hue_lightup          | brighten_lights      | light      | Make the lights brighter.
iot_wemo_off             | plug_off             | plug       | Turn a smart plug or its device off.
iot_wemo_on              | plug_on              | plug       | Turn a smart plug or its device on.
lists_createoradd        | add_to_list          | list       | Make a list or put something on it.
lists_query              | get_list             | list       | Read a list.
lists_remove             | remove_from_list     | list       | Remove a list or something from it.
music_likeness           | like_music           | music      | Remember which music the user likes.
music_query              | get_music_info       | music      | Tell what music this is.
music_settings           | set_player           | music      | Set the player, such as shuffle or repeat.
news_query               | get_news             | news       | Get the news.
play_audiobook           | play_audiobook       | audiobook  | Play an audiobook.
play_game                | play_game            | game       | Start a game.
play_music               | play_music           | music      | Play music.
play_podcasts            | play_podcast         | podcast    | Play a podcast.
play_radio               | play_radio           | radio      | Play a radio station.
qa_currency              | convert_currency     | currency   | Convert money or get an exchange rate.
qa_definition            | define               | definition | Say what a word or a thing is.
qa_factoid               | answer_question      | fact       | Answer a question about a fact.
qa_maths                 | calculate            | maths      | Calculate.
qa_stock                 | get_stock_price      | stock      | Get the price of a stock.
recommendation_events    | find_events          | events     | Find events to go to.
recommendation_locations | find_places          | places     | Find places such as shops and restaurants.
recommendation_movies    | find_movies          | cinema     | Find films that are shown.
social_post              | post_message         | social     | Post something on social media.
social_query             | get_posts            | social     | Read what is new on social media.
takeaway_order           | order_food           | takeaway   | Order food.
takeaway_query           | check_food_order     | takeaway   | Ask a restaurant about orders and delivery.
transport_query          | get_travel_info      | transport  | Get directions or timetables.
transport_taxi           | book_taxi            | taxi       | Call a taxi.
transport_ticket         | book_ticket          | transport  | Book a train or bus ticket.
transport_traffic        | get_traffic          | traffic    | Get the traffic.
weather_query            | get_weather          | weather    | Get the weather.
""")

#: Intents of CLINC150 (Larson et al., arXiv 1909.02027) that need no argument. The set marks no slots, so only these
#: can be tools.
CLINC_TOOLS = _table("""
application_status        | get_application_status | credit   | Tell how far an application for a credit card is.
bill_due                  | get_bill_due_date      | bill     | Tell when a bill has to be paid.
cancel_reservation        | cancel_reservation     | booking  | Cancel a reservation.
car_rental                | rent_car               | rental   | Rent a car.
card_declined             | explain_declined_card  | card     | Tell why a card was declined.
confirm_reservation       | confirm_reservation    | booking  | Confirm a reservation.
credit_score              | get_credit_score       | score    | Tell the credit score.
damaged_card              | report_damaged_card    | card     | Report a damaged card.
direct_deposit            | set_up_direct_deposit  | deposit  | Set up direct deposit of a salary.
find_phone                | find_phone             | phone    | Let the lost phone ring.
flip_coin                 | flip_coin              | chance   | Flip a coin.
freeze_account            | freeze_account         | account  | Freeze a bank account.
fun_fact                  | tell_fun_fact          | fun      | Tell a fun fact.
improve_credit_score      | improve_credit_score   | score    | Tell how to improve the credit score.
income                    | get_income             | income   | Tell the income.
insurance                 | get_insurance          | insure   | Tell about the insurance.
insurance_change          | change_insurance       | insure   | Change the insurance.
interest_rate             | get_interest_rate      | interest | Tell the interest rate.
jump_start                | explain_jump_start     | car      | Explain how to jump start a car.
last_maintenance          | get_last_maintenance   | car      | Tell when the car was last in maintenance.
lost_luggage              | report_lost_luggage    | luggage  | Report lost luggage.
new_card                  | order_new_card         | newcard  | Order a new credit card.
next_song                 | next_song              | music    | Skip to the next song.
oil_change_how            | explain_oil_change     | oil      | Explain how to change the oil.
oil_change_when           | get_oil_change_date    | oil      | Tell when to change the oil.
order_checks              | order_checks           | checks   | Order checks.
order_status              | get_order_status       | delivery | Tell where an order is.
payday                    | get_payday             | payday   | Tell when the salary is paid.
pin_change                | change_pin             | pin      | Change the PIN.
pto_balance               | get_vacation_days      | vacation | Tell how many vacation days are left.
pto_request_status        | get_vacation_request   | vacation | Tell whether a vacation was approved.
redeem_rewards            | redeem_rewards         | rewards  | Redeem reward points.
report_fraud              | report_fraud           | fraud    | Report fraud.
report_lost_card          | report_lost_card       | lostcard | Report a lost card.
reset_settings            | reset_settings         | settings | Reset the settings.
rewards_balance           | get_reward_points      | rewards  | Tell how many reward points there are.
roll_dice                 | roll_dice              | chance   | Roll dice.
routing                   | get_routing_number     | routing  | Tell the routing number of a bank.
schedule_maintenance      | schedule_maintenance   | car      | Schedule maintenance of the car.
sync_device               | sync_device            | sync     | Connect a device.
taxes                     | get_taxes              | tax      | Tell about taxes.
tell_joke                 | tell_joke              | joke     | Tell a joke.
tire_change               | explain_tire_change    | tire     | Explain how to change a tire.
tire_pressure             | get_tire_pressure      | tire     | Tell the tire pressure.
w2                        | get_w2                 | tax      | Get the W-2 form.
what_song                 | identify_song          | music    | Tell which song is playing.
whisper_mode              | whisper                | voice    | Speak quietly.
""")

#: Subjects of CLINC150's other intents that tools of other data sets share: such a request may have a tool after all.
CLINC_SUBJECTS = dict(
    line.split()
    for line in """
accept_reservations restaurant
alarm alarm
book_flight transport
book_hotel hotel
calculator maths
calendar calendar
calendar_update calendar
change_volume volume
cook_time cooking
current_location places
date time
definition definition
directions transport
distance transport
exchange_rate currency
food_last cooking
how_busy restaurant
ingredient_substitution cooking
ingredients_list cooking
make_call phone
meal_suggestion cooking
measurement_conversion maths
meeting_schedule calendar
next_holiday calendar
nutrition_info cooking
order takeaway
play_music music
recipe cooking
reminder calendar
reminder_update calendar
repeat talk
restaurant_reservation restaurant
restaurant_reviews places
restaurant_suggestion places
schedule_meeting calendar
shopping_list list
shopping_list_update list
smart_home light
spelling definition
text phone
time time
timer alarm
timezone time
todo_list list
todo_list_update list
traffic traffic
translate definition
transfer bank
balance bank
transactions bank
travel_suggestion events
uber taxi
update_playlist music
weather weather
calories cooking
flight_status transport
share_location social
carry_on transport
""".strip().splitlines()
)
